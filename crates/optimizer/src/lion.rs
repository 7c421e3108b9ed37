//! Lion: the sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675), in the order of `lion-pytorch`.

use crate::update::{Commit, Slot, device_of, run, updates};
use crate::{Optimizer, ParamGroup};
use sdtrain_recipe::LionConfig;
use sdtrain_torch::Result;
use tch::Tensor;

/// Lion over groups of parameters.
pub(crate) struct Lion {
    config: LionConfig,
    groups: Vec<ParamGroup>,
    exp_avgs: Slot,
}

impl Lion {
    pub fn new(config: &LionConfig, groups: Vec<ParamGroup>) -> Lion {
        Lion { config: config.clone(), exp_avgs: Slot::zeros("exp_avg", &groups), groups }
    }
}

impl Optimizer for Lion {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        run(|| {
            let commit = Commit::new(found_inf, device_of(&self.groups));
            let [beta1, beta2] = self.config.betas;
            for update in updates(&self.groups) {
                let (rate, exp_avg) = (learning_rates[update.group], &self.exp_avgs[update.index]);
                let direction = (exp_avg * beta1 + &update.gradient * (1.0 - beta1)).sgn();
                let parameter = &update.parameter * (1.0 - rate * self.config.weight_decay) - direction * rate;
                commit.write(&update.parameter, &parameter);
                commit.write(exp_avg, &(exp_avg * beta2 + &update.gradient * (1.0 - beta2)));
            }
        })
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.exp_avgs.named(&self.groups).collect()
    }
}
