//! Prodigy: AdamW that estimates its step size (Mishchenko & Defazio 2023, arXiv:2306.06101, algorithm 4), in the order
//! of `prodigyopt`.

use crate::d_estimate::{Numbers, bias_correction, limited};
use crate::update::{Commit, Slot, device_of, number, run, single, updates};
use crate::{Optimizer, ParamGroup};
use sdtrain_recipe::ProdigyConfig;
use sdtrain_torch::Result;
use tch::{Kind, Tensor};

/// Prodigy over groups of parameters. Groups have one rate, or 0 and are left alone.
pub(crate) struct Prodigy {
    config: ProdigyConfig,
    groups: Vec<ParamGroup>,
    /// d, its largest value so far, the sum above the line, and steps.
    numbers: Numbers<4>,
    exp_avgs: Slot,
    exp_avg_sqs: Slot,
    /// The sum of gradients below the line.
    sums: Slot,
    /// The first weights; a single 0 where all of them are.
    initial: Slot,
}

/// Every `slice_p`-th number of a tensor.
fn sliced(tensor: &Tensor, slice_p: i64) -> Tensor {
    tensor.flatten(0, -1).slice(0, 0, None::<i64>, slice_p)
}

impl Prodigy {
    pub fn new(config: &ProdigyConfig, groups: Vec<ParamGroup>) -> Prodigy {
        let part = |tensor: &Tensor| sliced(tensor, config.slice_p);
        let numbers = [("d", config.d0), ("d_max", config.d0), ("d_numerator", 0.0), ("k", 0.0)];
        Prodigy {
            config: config.clone(),
            numbers: Numbers::new(numbers, device_of(&groups)),
            exp_avgs: Slot::zeros("exp_avg", &groups),
            exp_avg_sqs: Slot::zeros("exp_avg_sq", &groups),
            sums: Slot::new("s", &groups, |parameter| part(parameter).zeros_like()),
            initial: Slot::new("p0", &groups, |parameter| match parameter.any().int64_value(&[]) {
                0 => Tensor::zeros([] as [i64; 0], (Kind::Float, parameter.device())),
                _ => part(parameter).copy(),
            }),
            groups,
        }
    }
}

impl Optimizer for Prodigy {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        let rate = learning_rates.iter().copied().fold(0.0, f64::max);
        if rate == 0.0 {
            return Ok(());
        }
        run(|| {
            let device = device_of(&self.groups);
            let commit = Commit::new(found_inf, device);
            let ProdigyConfig { d0, eps, weight_decay, slice_p, .. } = self.config;
            let [beta1, beta2] = self.config.betas;
            let beta3 = self.config.beta3.unwrap_or(beta2.sqrt());
            let [d, d_max, d_numerator, steps] = self.numbers.values();
            let (d, d_max) = (d.copy(), d_max.copy());
            let dlr = &d * rate * bias_correction(self.config.use_bias_correction, self.config.betas, steps);
            let part_of_sum = &d / d0 * if self.config.safeguard_warmup { &d } else { &dlr };

            let updates: Vec<_> = updates(&self.groups).into_iter().filter(|u| learning_rates[u.group] > 0.0).collect();
            let mut numerator = d_numerator * beta3;
            let mut denominator = number(0.0, device);
            for update in &updates {
                let (index, parameter) = (update.index, &update.parameter);
                let gradient = match (weight_decay, self.config.decouple) {
                    (0.0, _) | (_, true) => update.gradient.shallow_clone(),
                    _ => &update.gradient + parameter * weight_decay,
                };
                let part = sliced(&gradient, slice_p);
                let way = &self.initial[index] - sliced(parameter, slice_p);
                numerator = &numerator + (&d / d0) * &dlr * part.dot(&way).to_kind(Kind::Double);
                let (exp_avg, exp_avg_sq) = (&self.exp_avgs[index], &self.exp_avg_sqs[index]);
                commit.write(exp_avg, &(exp_avg * beta1 + &gradient * single(&(&d * (1.0 - beta1)))));
                let squares = gradient.square() * single(&(d.square() * (1.0 - beta2)));
                commit.write(exp_avg_sq, &(exp_avg_sq * beta2 + squares));
                let sum = &self.sums[index] * beta3 + part * single(&part_of_sum);
                denominator = &denominator + sum.abs().sum(Kind::Float).to_kind(Kind::Double);
                commit.write(&self.sums[index], &sum);
            }

            // Without any gradient so far nothing is known, and nothing moves.
            let commit = commit.only_if(&denominator.gt(0.0));
            let d_hat = &numerator / denominator * self.config.d_coef;
            let first = d.maximum(&d_hat).where_self(&d.eq(d0), &d);
            let d_max = d_max.maximum(&d_hat);
            let d = limited(d_max.shallow_clone(), &first, self.config.growth_rate);
            for update in &updates {
                let (index, parameter) = (update.index, &update.parameter);
                let root = self.exp_avg_sqs[index].sqrt() + single(&(&d * eps));
                let decayed = match self.config.decouple {
                    true if weight_decay != 0.0 => parameter - parameter * single(&(&dlr * weight_decay)),
                    _ => parameter.shallow_clone(),
                };
                commit.write(parameter, &(decayed - &self.exp_avgs[index] / root * single(&dlr)));
            }
            self.numbers.write([&d, &d_max, &numerator, &(steps + 1.0)], &commit);
        })
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let slots = [&self.exp_avgs, &self.exp_avg_sqs, &self.sums, &self.initial];
        self.numbers.named().chain(slots.into_iter().flat_map(|slot| slot.named(&self.groups))).collect()
    }

    /// Times what it has found.
    fn effective_rates(&self, learning_rates: &[f64]) -> Vec<f64> {
        let d = self.numbers.values()[0].double_value(&[]);
        learning_rates.iter().map(|rate| rate * d).collect()
    }
}
