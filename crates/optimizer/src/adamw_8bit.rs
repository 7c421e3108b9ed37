//! AdamW whose running means are kept in 8 bits (Dettmers et al. 2022, arXiv:2110.02861), with the numbers of
//! bitsandbytes' `AdamW8bit`.

use crate::quantized::{DynamicMap, Quantized};
use crate::update::{Commit, Slot, device_of, run, single, updates};
use crate::{Optimizer, ParamGroup};
use sdtrain_recipe::AdamW8bitConfig;
use sdtrain_torch::Result;
use tch::Tensor;

/// AdamW over groups of parameters.
pub(crate) struct AdamW8bit {
    config: AdamW8bitConfig,
    groups: Vec<ParamGroup>,
    steps: Slot,
    moments: Vec<Moments>,
    signed: DynamicMap,
    unsigned: DynamicMap,
}

/// The running means of one parameter's gradient and of its square.
enum Moments {
    Quantized([Quantized; 2]),
    /// Of parameters that are too small to be worth it.
    Whole([Tensor; 2]),
}

impl AdamW8bit {
    pub fn new(config: &AdamW8bitConfig, groups: Vec<ParamGroup>) -> AdamW8bit {
        let device = device_of(&groups);
        let (signed, unsigned) = (DynamicMap::signed(device), DynamicMap::unsigned(device));
        let moments = |parameter: &Tensor| match config.is_quantized(parameter.numel()) {
            true => Moments::Quantized([&signed, &unsigned].map(|map| Quantized::zeros(parameter, map))),
            false => Moments::Whole([(); 2].map(|()| parameter.detach().zeros_like())),
        };
        let parameters = groups.iter().flat_map(|group| &group.parameters);
        let moments = parameters.map(|(_, parameter)| moments(parameter)).collect();
        AdamW8bit { config: config.clone(), steps: Slot::steps(&groups), groups, moments, signed, unsigned }
    }
}

impl Optimizer for AdamW8bit {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        run(|| {
            let commit = Commit::new(found_inf, device_of(&self.groups));
            let [beta1, beta2] = self.config.betas;
            for update in updates(&self.groups) {
                let (parameter, gradient) = (&update.parameter, &update.gradient);
                let (rate, moments) = (learning_rates[update.group], &self.moments[update.index]);
                let [exp_avg, exp_avg_sq] = match moments {
                    Moments::Quantized([first, second]) => {
                        [first.read(&self.signed, parameter), second.read(&self.unsigned, parameter)]
                    }
                    Moments::Whole(whole) => whole.each_ref().map(Tensor::shallow_clone),
                };
                let exp_avg = exp_avg * beta1 + gradient * (1.0 - beta1);
                let exp_avg_sq = exp_avg_sq * beta2 + gradient.square() * (1.0 - beta2);
                let step = &self.steps[update.index] + 1.0;
                let corrections: [Tensor; 2] = self.config.betas.map(|beta| 1.0 - Tensor::pow_scalar(beta, &step));
                let [correction1, correction2] = corrections;
                let root = exp_avg_sq.sqrt() / single(&correction2.sqrt()) + self.config.eps;
                let change = &exp_avg / root * single(&(correction1.reciprocal() * rate));
                let decayed = parameter * (1.0 - rate * self.config.weight_decay);
                commit.write(parameter, &(decayed - change));
                match moments {
                    Moments::Quantized([first, second]) => {
                        first.write(&exp_avg, &self.signed, &commit);
                        second.write(&exp_avg_sq, &self.unsigned, &commit);
                    }
                    Moments::Whole([first, second]) => {
                        commit.write(first, &exp_avg);
                        commit.write(second, &exp_avg_sq);
                    }
                }
                commit.write(&self.steps[update.index], &step);
            }
        })
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let names = self.groups.iter().flat_map(|group| &group.parameters).map(|(name, _)| name);
        let of_moments = names.zip(&self.moments).flat_map(|(name, moments)| {
            let entries = match moments {
                Moments::Quantized([first, second]) => vec![
                    ("exp_avg_codes", &first.codes),
                    ("exp_avg_largest", &first.largest),
                    ("exp_avg_sq_codes", &second.codes),
                    ("exp_avg_sq_largest", &second.largest),
                ],
                Moments::Whole([first, second]) => vec![("exp_avg", first), ("exp_avg_sq", second)],
            };
            let named = |(kind, tensor): (&str, &Tensor)| (format!("{kind}.{name}"), tensor.shallow_clone());
            entries.into_iter().map(named).collect::<Vec<_>>()
        });
        self.steps.named(&self.groups).chain(of_moments).collect()
    }
}
