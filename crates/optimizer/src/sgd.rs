//! Gradient descent with momentum, as `torch.optim.SGD` has it (Sutskever et al. 2013).

use crate::update::{Commit, Slot, device_of, run, updates};
use crate::{Optimizer, ParamGroup};
use sdtrain_recipe::SgdConfig;
use sdtrain_torch::Result;
use tch::Tensor;

/// SGD over groups of parameters.
pub(crate) struct Sgd {
    config: SgdConfig,
    groups: Vec<ParamGroup>,
    /// Nothing without a momentum.
    momenta: Option<Slot>,
}

impl Sgd {
    pub fn new(config: &SgdConfig, groups: Vec<ParamGroup>) -> Sgd {
        let momenta = (config.momentum != 0.0).then(|| Slot::zeros("momentum", &groups));
        Sgd { config: config.clone(), groups, momenta }
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        run(|| {
            let commit = Commit::new(found_inf, device_of(&self.groups));
            let SgdConfig { momentum, nesterov, weight_decay, .. } = self.config;
            for update in updates(&self.groups) {
                let mut direction = match weight_decay {
                    0.0 => update.gradient.shallow_clone(),
                    _ => &update.gradient + &update.parameter * weight_decay,
                };
                if let Some(momenta) = &self.momenta {
                    // Begun with zeros, which is torch's first step: the gradient itself.
                    let sum = &momenta[update.index] * momentum + &direction;
                    commit.write(&momenta[update.index], &sum);
                    direction = if nesterov { direction + sum * momentum } else { sum };
                }
                commit.write(&update.parameter, &(&update.parameter - direction * learning_rates[update.group]));
            }
        })
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.momenta.iter().flat_map(|momenta| momenta.named(&self.groups)).collect()
    }
}
