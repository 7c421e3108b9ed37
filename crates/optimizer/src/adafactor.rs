//! Adafactor: a factored mean of squares, clipped updates, steps relative to the weights (Shazeer & Stern 2018,
//! arXiv:1804.04235), in the order of transformers' `Adafactor`.

use crate::factored::{MeanSquares, clipped, root_mean_square};
use crate::update::{Commit, Slot, device_of, run, single, updates};
use crate::{Optimizer, ParamGroup};
use sdtrain_recipe::AdafactorConfig;
use sdtrain_torch::Result;
use tch::Tensor;

/// Adafactor over groups of parameters.
pub(crate) struct Adafactor {
    config: AdafactorConfig,
    groups: Vec<ParamGroup>,
    steps: Slot,
    exp_avg_sqs: MeanSquares,
    /// Nothing without `beta1`.
    exp_avgs: Option<Slot>,
}

impl Adafactor {
    pub fn new(config: &AdafactorConfig, groups: Vec<ParamGroup>) -> Adafactor {
        Adafactor {
            config: config.clone(),
            steps: Slot::steps(&groups),
            exp_avg_sqs: MeanSquares::zeros("exp_avg_sq", &groups),
            exp_avgs: config.beta1.map(|_| Slot::zeros("exp_avg", &groups)),
            groups,
        }
    }

    /// The size of step number `step`, before the scale of a parameter: a number on the device.
    fn step_size(&self, step: &Tensor, learning_rate: f64) -> Tensor {
        if !self.config.relative_step {
            return step.full_like(learning_rate);
        }
        let falling = step.rsqrt();
        let most = if self.config.warmup_init { step * 1e-6 } else { step.full_like(1e-2) };
        falling.minimum(&most) * learning_rate
    }
}

impl Optimizer for Adafactor {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        run(|| {
            let commit = Commit::new(found_inf, device_of(&self.groups));
            let [square_eps, scale_eps] = self.config.eps;
            for update in updates(&self.groups) {
                let (parameter, gradient) = (&update.parameter, &update.gradient);
                let step = &self.steps[update.index] + 1.0;
                let mut size = self.step_size(&step, learning_rates[update.group]);
                if self.config.scale_parameter {
                    size = &size * root_mean_square(parameter).clamp_min(scale_eps);
                }
                let beta2 = 1.0 - step.pow_tensor_scalar(self.config.decay_rate);
                let squares = gradient.square() + square_eps;
                let one_over_root = self.exp_avg_sqs.follow(update.index, &squares, &beta2, &commit);
                let mut change = clipped(&(one_over_root * gradient), self.config.clip_threshold) * single(&size);
                if let (Some(exp_avgs), Some(beta1)) = (&self.exp_avgs, self.config.beta1) {
                    change = &exp_avgs[update.index] * beta1 + change * (1.0 - beta1);
                    commit.write(&exp_avgs[update.index], &change);
                }
                let decayed = match self.config.weight_decay {
                    0.0 => parameter.shallow_clone(),
                    decay => parameter - parameter * single(&(size * decay)),
                };
                commit.write(parameter, &(decayed - change));
                commit.write(&self.steps[update.index], &step);
            }
        })
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state: Vec<(String, Tensor)> = self.steps.named(&self.groups).collect();
        state.extend(self.exp_avg_sqs.named(&self.groups));
        state.extend(self.exp_avgs.iter().flat_map(|exp_avgs| exp_avgs.named(&self.groups)));
        state
    }

    /// With `relative_step` the size of the last step before the scale of each parameter.
    fn effective_rates(&self, learning_rates: &[f64]) -> Vec<f64> {
        if !self.config.relative_step || self.groups.iter().all(|group| group.parameters.is_empty()) {
            return learning_rates.to_vec();
        }
        let step = self.steps[0].clamp_min(1.0);
        learning_rates.iter().map(|&rate| self.step_size(&step, rate).double_value(&[])).collect()
    }
}
