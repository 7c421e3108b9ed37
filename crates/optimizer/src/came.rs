//! CAME: Adafactor's update with a momentum, divided by how far updates stray from it (Luo et al. 2023,
//! arXiv:2307.02047), in the order of `came-pytorch`.

use crate::factored::{MeanSquares, clipped};
use crate::update::{Commit, Slot, device_of, number, run, updates};
use crate::{Optimizer, ParamGroup};
use sdtrain_recipe::CameConfig;
use sdtrain_torch::Result;
use tch::Tensor;

/// CAME over groups of parameters.
pub(crate) struct Came {
    config: CameConfig,
    groups: Vec<ParamGroup>,
    exp_avgs: Slot,
    exp_avg_sqs: MeanSquares,
    /// The instability; vectors have none.
    exp_avg_res: MeanSquares,
}

impl Came {
    pub fn new(config: &CameConfig, groups: Vec<ParamGroup>) -> Came {
        Came {
            config: config.clone(),
            exp_avgs: Slot::zeros("exp_avg", &groups),
            exp_avg_sqs: MeanSquares::zeros("exp_avg_sq", &groups),
            exp_avg_res: MeanSquares::zeros_of_matrices("exp_avg_res", &groups),
            groups,
        }
    }
}

impl Optimizer for Came {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        run(|| {
            let device = device_of(&self.groups);
            let commit = Commit::new(found_inf, device);
            let [beta1, beta2, beta3] = self.config.betas;
            let [beta2, beta3] = [beta2, beta3].map(|beta| number(beta, device));
            let [square_eps, instability_eps] = self.config.eps;
            for update in updates(&self.groups) {
                let (parameter, gradient) = (&update.parameter, &update.gradient);
                let rate = learning_rates[update.group];
                let squares = gradient.square() + square_eps;
                let one_over_root = self.exp_avg_sqs.follow(update.index, &squares, &beta2, &commit);
                let change = clipped(&(one_over_root * gradient), self.config.clip_threshold);
                let exp_avg = &self.exp_avgs[update.index];
                let mean = exp_avg * beta1 + &change * (1.0 - beta1);
                commit.write(exp_avg, &mean);
                let instability = (change - &mean).square() + instability_eps;
                let change = self.exp_avg_res.follow(update.index, &instability, &beta3, &commit) * mean;
                let decayed = match self.config.weight_decay {
                    0.0 => parameter.shallow_clone(),
                    decay => parameter - parameter * (decay * rate),
                };
                commit.write(parameter, &(decayed - change * rate));
            }
        })
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state: Vec<(String, Tensor)> = self.exp_avgs.named(&self.groups).collect();
        state.extend(self.exp_avg_sqs.named(&self.groups));
        state.extend(self.exp_avg_res.named(&self.groups));
        state
    }
}
