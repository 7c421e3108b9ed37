//! Schedule-free AdamW: gradients are taken between the newest weights and their average, and the average is the product
//! (Defazio et al. 2024, arXiv:2405.15682), in the order of `schedulefree.AdamWScheduleFree`.

use crate::update::{Commit, Slot, device_of, number, run, single, updates};
use crate::{Optimizer, ParamGroup, Weights};
use sdtrain_recipe::AdamWScheduleFreeConfig;
use sdtrain_torch::Result;
use tch::Tensor;

/// Schedule-free AdamW over groups of parameters. While it trains the parameters are y of the paper.
pub(crate) struct AdamWScheduleFree {
    config: AdamWScheduleFreeConfig,
    groups: Vec<ParamGroup>,
    /// Of each group: steps, the largest rate so far, and the sum of the weights in the average.
    progress: Vec<Progress>,
    /// The newest weights.
    z: Slot,
    exp_avg_sqs: Slot,
    /// y of every parameter, while the parameters are the average.
    training: Option<Vec<Tensor>>,
}

struct Progress {
    steps: Tensor,
    lr_max: Tensor,
    weight_sum: Tensor,
}

impl AdamWScheduleFree {
    pub fn new(config: &AdamWScheduleFreeConfig, groups: Vec<ParamGroup>) -> AdamWScheduleFree {
        let zero = || number(0.0, device_of(&groups));
        AdamWScheduleFree {
            config: config.clone(),
            progress: groups.iter().map(|_| Progress { steps: zero(), lr_max: zero(), weight_sum: zero() }).collect(),
            z: Slot::new("z", &groups, Tensor::copy),
            exp_avg_sqs: Slot::zeros("exp_avg_sq", &groups),
            groups,
            training: None,
        }
    }

    fn parameters(&self) -> impl Iterator<Item = &Tensor> {
        self.groups.iter().flat_map(|group| &group.parameters).map(|(_, parameter)| parameter)
    }
}

impl Optimizer for AdamWScheduleFree {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        run(|| {
            let commit = Commit::new(found_inf, device_of(&self.groups));
            let AdamWScheduleFreeConfig { eps, weight_decay, r, weight_lr_power, .. } = self.config;
            let [beta1, beta2] = self.config.betas;
            // How far y goes towards z, the gradient's factor in y, and what is left of Adam's correction, by group.
            let factors: Vec<[Tensor; 3]> = self
                .progress
                .iter()
                .zip(learning_rates)
                .map(|(progress, &rate)| {
                    let steps = &progress.steps + 1.0;
                    let lr_max = progress.lr_max.clamp_min(rate);
                    let weight = steps.pow_tensor_scalar(r) * lr_max.pow_tensor_scalar(weight_lr_power);
                    let weight_sum = &progress.weight_sum + &weight;
                    // A warm-up begins with rate 0, which weighs nothing.
                    let share = (weight / &weight_sum).where_self(&weight_sum.gt(0.0), &weight_sum);
                    let gradient = ((1.0 - &share) * beta1 - 1.0) * rate;
                    let correction = 1.0 - Tensor::pow_scalar(beta2, &steps);
                    commit.write(&progress.steps, &steps);
                    commit.write(&progress.lr_max, &lr_max);
                    commit.write(&progress.weight_sum, &weight_sum);
                    [share, gradient, correction].map(|factor| single(&factor))
                })
                .collect();
            for update in updates(&self.groups) {
                let [share, gradient_factor, correction] = &factors[update.group];
                let (y, z, exp_avg_sq) = (&update.parameter, &self.z[update.index], &self.exp_avg_sqs[update.index]);
                let squares = exp_avg_sq * beta2 + update.gradient.square() * (1.0 - beta2);
                let mut direction = update.gradient / ((&squares / correction).sqrt() + eps);
                if weight_decay != 0.0 {
                    direction = &direction + y * weight_decay;
                }
                commit.write(exp_avg_sq, &squares);
                commit.write(y, &(y.lerp_tensor(z, share) + &direction * gradient_factor));
                commit.write(z, &(z - direction * learning_rates[update.group]));
            }
        })
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let of_groups = self.progress.iter().zip(&self.groups).flat_map(|(progress, group)| {
            [("step", &progress.steps), ("lr_max", &progress.lr_max), ("weight_sum", &progress.weight_sum)]
                .map(|(name, tensor)| (format!("{name}.{}", group.name), tensor.shallow_clone()))
        });
        let slots = [&self.z, &self.exp_avg_sqs];
        of_groups.chain(slots.into_iter().flat_map(|slot| slot.named(&self.groups))).collect()
    }

    fn hold(&mut self, weights: Weights) -> Result<()> {
        let training = match (weights, self.training.take()) {
            // y is put back as it was: to compute it from the average would round, and a run with pictures would differ
            // from one without.
            (Weights::Training, Some(training)) => {
                return run(|| {
                    self.parameters().zip(&training).for_each(|(p, y)| p.shallow_clone().copy_(y));
                });
            }
            (Weights::Training, None) => None,
            (Weights::Evaluation, Some(training)) => Some(training),
            (Weights::Evaluation, None) => {
                let training: Vec<Tensor> = self.parameters().map(|parameter| parameter.detach().copy()).collect();
                run(|| {
                    for (index, parameter) in self.parameters().enumerate() {
                        let _ = parameter.shallow_clone().lerp_(&self.z[index], 1.0 - 1.0 / self.config.betas[0]);
                    }
                })?;
                Some(training)
            }
        };
        self.training = training;
        Ok(())
    }
}
