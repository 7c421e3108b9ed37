//! AdamW whose running means are kept in 8 bits (Dettmers et al. 2022, arXiv:2110.02861), with the numbers of
//! bitsandbytes' `AdamW8bit`.

use crate::quantized::{Quantized, signed_map, unsigned_map};
use crate::update::{Commit, Slot, Update, device_of, run, single, updates};
use crate::{Optimizer, ParamGroup};
use sdtrain_recipe::AdamW8bitConfig;
use sdtrain_torch::{AdamW8bitStep, CodeMap, Result, catch};
use tch::{Device, Kind, Tensor};

/// AdamW over groups of parameters.
pub(crate) struct AdamW8bit {
    config: AdamW8bitConfig,
    groups: Vec<ParamGroup>,
    steps: Slot,
    moments: Vec<Moments>,
    signed: CodeMap,
    unsigned: CodeMap,
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
        let (signed, unsigned) = (signed_map(device), unsigned_map(device));
        let moments = |parameter: &Tensor| match config.is_quantized(parameter.numel()) {
            true => Moments::Quantized([&signed, &unsigned].map(|map| Quantized::zeros(parameter, map))),
            false => Moments::Whole([(); 2].map(|()| parameter.detach().zeros_like())),
        };
        let parameters = groups.iter().flat_map(|group| &group.parameters);
        let moments = parameters.map(|(_, parameter)| moments(parameter)).collect();
        AdamW8bit { config: config.clone(), steps: Slot::steps(&groups), groups, moments, signed, unsigned }
    }
}

impl AdamW8bit {
    /// A parameter whose tensors the kernel takes as they are; none of its numbers are copied.
    fn suits_kernel(parameter: &Tensor, gradient: &Tensor) -> bool {
        let suits =
            |tensor: &Tensor| tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous();
        suits(parameter) && suits(gradient)
    }

    /// One parameter, moments in 8 bits, in host memory.
    fn update_by_kernel(&self, update: &Update, moments: &[Quantized; 2], rate: f64) -> Result<()> {
        let steps = &self.steps[update.index];
        let step = catch(|| steps.double_value(&[]))? + 1.0;
        let numbers = AdamW8bitStep {
            learning_rate: rate,
            betas: self.config.betas,
            eps: self.config.eps,
            weight_decay: self.config.weight_decay,
            step,
        };
        let moments = [moments[0].moment(&self.signed), moments[1].moment(&self.unsigned)];
        sdtrain_torch::adamw_8bit(&update.parameter, &update.gradient, moments, numbers)?;
        run(|| {
            let _ = steps.shallow_clone().fill_(step);
        })
    }

    /// The same on any device, without reading anything back.
    fn update_by_tensor_operations(&self, update: &Update, rate: f64, commit: &Commit) {
        let [beta1, beta2] = self.config.betas;
        let (parameter, gradient) = (&update.parameter, &update.gradient);
        let moments = &self.moments[update.index];
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
                first.write(&exp_avg, &self.signed, commit);
                second.write(&exp_avg_sq, &self.unsigned, commit);
            }
            Moments::Whole([first, second]) => {
                commit.write(first, &exp_avg);
                commit.write(second, &exp_avg_sq);
            }
        }
        commit.write(&self.steps[update.index], &step);
    }
}

impl Optimizer for AdamW8bit {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        // In host memory it costs nothing to look.
        let is_set = |flag: &Tensor| flag.device() == Device::Cpu && flag.reshape([1]).double_value(&[0]) != 0.0;
        if catch(|| found_inf.is_some_and(is_set))? {
            return Ok(());
        }
        let commit = Commit::new(found_inf, device_of(&self.groups));
        for update in updates(&self.groups) {
            let rate = learning_rates[update.group];
            match &self.moments[update.index] {
                Moments::Quantized(moments) if AdamW8bit::suits_kernel(&update.parameter, &update.gradient) => {
                    self.update_by_kernel(&update, moments, rate)?;
                }
                _ => run(|| self.update_by_tensor_operations(&update, rate, &commit))?,
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes with a part of a block at the end, and one that is not quantized.
    const SIZES: [i64; 3] = [4096 + 100, 8192, 100];

    fn optimizer() -> AdamW8bit {
        // The process has one generator, and other tests draw from it.
        let parameter = |size: &i64| {
            let values = (Tensor::arange(*size, (Kind::Float, Device::Cpu)) * 0.7).sin();
            (format!("of_{size}"), values.set_requires_grad(true))
        };
        let parameters = SIZES.iter().map(parameter).collect();
        AdamW8bit::new(
            &AdamW8bitConfig::default(),
            vec![ParamGroup { name: "unet".into(), learning_rate: 1.0, parameters }],
        )
    }

    #[test]
    fn the_kernel_does_what_tensor_operations_do_and_its_state_is_equal_to_the_bit() {
        let (mut kernel, operations) = (optimizer(), optimizer());
        for step in 0..30 {
            // The same for both: from numbers far below the smallest value of the map to large ones, zeros among them.
            let gradients: Vec<Tensor> = SIZES
                .iter()
                .map(|size| {
                    let sizes = Tensor::rand([*size], (Kind::Float, Device::Cpu)) * 12.0 - 10.0;
                    let gradient = Tensor::randn([*size], (Kind::Float, Device::Cpu)) * sizes.exp();
                    if step % 3 == 0 { gradient * sizes.gt(-4.0) } else { gradient }
                })
                .collect();
            for optimizer in [&kernel, &operations] {
                for ((_, parameter), gradient) in optimizer.groups[0].parameters.iter().zip(&gradients) {
                    parameter.shallow_clone().zero_grad();
                    (parameter * gradient).sum(Kind::Float).backward();
                }
            }
            kernel.step(&[1e-2], None).expect("a step");
            tch::no_grad(|| {
                let commit = Commit::new(None, Device::Cpu);
                for update in updates(&operations.groups) {
                    operations.update_by_tensor_operations(&update, 1e-2, &commit);
                }
            });
            for ((name, ours), (_, expected)) in kernel.state().iter().zip(operations.state()) {
                assert!(ours.equal(&expected), "step {step}: {name}");
            }
            // libtorch's root of a tensor is not rounded to the nearest; the kernel's is.
            let parameters = |optimizer: &AdamW8bit| {
                optimizer.groups[0].parameters.iter().map(|(_, p)| p.detach()).collect::<Vec<_>>()
            };
            for (ours, expected) in parameters(&kernel).iter().zip(parameters(&operations)) {
                let apart = ((ours - &expected).abs() / (expected.abs() + 1e-2)).max().double_value(&[]);
                assert!(apart < 1e-5, "step {step}: {apart:.1e}");
            }
        }
    }

    #[test]
    fn a_step_that_must_not_count_changes_nothing() {
        let mut optimizer = optimizer();
        for (_, parameter) in &optimizer.groups[0].parameters {
            (parameter * f64::NAN).sum(Kind::Float).backward();
        }
        let before: Vec<Tensor> = optimizer.state().iter().map(|(_, tensor)| tensor.copy()).collect();
        optimizer.step(&[1e-2], Some(&Tensor::from_slice(&[1f32]))).expect("it is skipped");
        for ((name, after), before) in optimizer.state().iter().zip(before) {
            assert!(after.equal(&before), "{name}");
        }
    }
}
