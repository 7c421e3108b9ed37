//! Adam that estimates its step size by D-Adaptation (Defazio & Mishchenko 2023, arXiv:2301.07733), in the order of
//! `dadaptation.DAdaptAdam`.

use crate::d_estimate::{Numbers, bias_correction, limited};
use crate::update::{Commit, Slot, device_of, number, run, single, updates};
use crate::{Optimizer, ParamGroup};
use sdtrain_recipe::DAdaptAdamConfig;
use sdtrain_torch::Result;
use tch::{Kind, Tensor};

/// DAdaptAdam over groups of parameters. Groups have one rate, or 0 and are left alone.
pub(crate) struct DAdaptAdam {
    config: DAdaptAdamConfig,
    groups: Vec<ParamGroup>,
    /// d, the sum above the line, and steps.
    numbers: Numbers<3>,
    exp_avgs: Slot,
    exp_avg_sqs: Slot,
    /// The sum of gradients below the line.
    sums: Slot,
}

impl DAdaptAdam {
    pub fn new(config: &DAdaptAdamConfig, groups: Vec<ParamGroup>) -> DAdaptAdam {
        let numbers = [("d", config.d0), ("numerator_weighted", 0.0), ("k", 0.0)];
        DAdaptAdam {
            config: config.clone(),
            numbers: Numbers::new(numbers, device_of(&groups)),
            exp_avgs: Slot::zeros("exp_avg", &groups),
            exp_avg_sqs: Slot::zeros("exp_avg_sq", &groups),
            sums: Slot::zeros("s", &groups),
            groups,
        }
    }
}

impl Optimizer for DAdaptAdam {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        let rate = learning_rates.iter().copied().fold(0.0, f64::max);
        if rate == 0.0 {
            return Ok(());
        }
        run(|| {
            let device = device_of(&self.groups);
            let commit = Commit::new(found_inf, device);
            let DAdaptAdamConfig { eps, weight_decay, decouple, .. } = self.config;
            let [beta1, beta2] = self.config.betas;
            let root_beta2 = beta2.sqrt();
            let [d, numerator_weighted, steps] = self.numbers.values();
            let dlr = d * rate * bias_correction(self.config.use_bias_correction, self.config.betas, steps);

            let updates: Vec<_> = updates(&self.groups).into_iter().filter(|u| learning_rates[u.group] > 0.0).collect();
            let mut numerator = number(0.0, device);
            let mut denominator = number(0.0, device);
            for update in &updates {
                let gradient = match (weight_decay, decouple) {
                    (0.0, _) | (_, true) => update.gradient.shallow_clone(),
                    _ => &update.gradient + &update.parameter * weight_decay,
                };
                let (exp_avg, exp_avg_sq) = (&self.exp_avgs[update.index], &self.exp_avg_sqs[update.index]);
                let sum = &self.sums[update.index];
                let projected = gradient.flatten(0, -1).dot(&(sum / (exp_avg_sq.sqrt() + eps)).flatten(0, -1));
                numerator = &numerator + &dlr * projected.to_kind(Kind::Double);
                commit.write(exp_avg, &(exp_avg * beta1 + &gradient * single(&(&dlr * (1.0 - beta1)))));
                commit.write(exp_avg_sq, &(exp_avg_sq * beta2 + gradient.square() * (1.0 - beta2)));
                let new_sum = sum * root_beta2 + gradient * single(&(&dlr * (1.0 - root_beta2)));
                denominator = &denominator + new_sum.abs().sum(Kind::Float).to_kind(Kind::Double);
                commit.write(sum, &new_sum);
            }

            // Without any gradient so far nothing is known, and nothing moves.
            let commit = commit.only_if(&denominator.gt(0.0));
            let numerator = numerator_weighted * root_beta2 + numerator * (1.0 - root_beta2);
            let d_hat = &numerator / (denominator * (1.0 - root_beta2));
            let new_d = d.maximum(&limited(d_hat, d, self.config.growth_rate));
            for update in &updates {
                let (index, parameter) = (update.index, &update.parameter);
                let change = &self.exp_avgs[index] / (self.exp_avg_sqs[index].sqrt() + eps);
                let decayed = match decouple {
                    true if weight_decay != 0.0 => parameter - parameter * single(&(&dlr * weight_decay)),
                    _ => parameter.shallow_clone(),
                };
                commit.write(parameter, &(decayed - change));
            }
            self.numbers.write([&new_d, &numerator, &(steps + 1.0)], &commit);
        })
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let slots = [&self.exp_avgs, &self.exp_avg_sqs, &self.sums];
        self.numbers.named().chain(slots.into_iter().flat_map(|slot| slot.named(&self.groups))).collect()
    }

    /// Times what it has found.
    fn effective_rates(&self, learning_rates: &[f64]) -> Vec<f64> {
        let d = self.numbers.values()[0].double_value(&[]);
        learning_rates.iter().map(|rate| rate * d).collect()
    }
}
