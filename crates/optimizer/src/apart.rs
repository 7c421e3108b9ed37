//! An update rule for each tensor by itself: in bf16 between steps, one tensor in fp32 at a time; or in the midst of the backward
//! pass, each as soon as its gradient is complete.

use crate::stored::{Scratch, Storage, Stored, no_infinity, working_copy};
use crate::update::{Commit, device_of};
use crate::{Optimizer, ParamGroup, Weights, adamw, build};
use sdtrain_recipe::{AdamWConfig, OptimizerConfig, Rounding, StoredType};
use sdtrain_torch::{
    AdamWStored, Error, GradientHook, Result, WeightRounding, adamw_stored, catch, clip_grad_norm, set_gradient,
};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

/// Update rules that know one tensor each; one that knows all where it must (`needs_all_tensors`).
pub struct Apart {
    groups: Vec<ParamGroup>,
    /// Shared with the hooks of the parameters.
    parts: Arc<Mutex<Parts>>,
    _hooks: Vec<GradientHook>,
    /// The weights of training, while the parameters are others.
    training: Option<Vec<Tensor>>,
}

struct Parts {
    list: Vec<Part>,
    storage: Storage,
    /// Steps done: the coordinate of rounding.
    steps: Tensor,
    /// The backward pass that updates are made in.
    pass: Option<Pass>,
    scratch: Scratch,
}

/// An update rule with its parameters.
struct Part {
    rule: Box<dyn Optimizer>,
    /// The rates it is given, of those of all groups.
    rates: Range<usize>,
    /// The model's own leaves.
    parameters: Vec<Tensor>,
    /// Those leaves where they are bf16, with what the rule works on.
    weights: Vec<Stored>,
    /// What the rule keeps in bf16.
    state: Vec<Stored>,
    has_evaluation_weights: bool,
    /// The rule's settings where it is AdamW, whose kernel takes numbers as they are kept.
    adamw: Option<AdamWConfig>,
}

/// A backward pass that updates are made in.
struct Pass {
    rates: Vec<f64>,
    /// A number on the device that is not finite where nothing may change.
    loss: Tensor,
    /// Of every gradient, by part.
    norms: Vec<Option<Tensor>>,
}

/// What a backward pass with updates has seen.
#[derive(Debug)]
pub struct FusedOutcome {
    /// The L2 norm of all gradients.
    pub norm: Tensor,
    /// Of those of each group, by its name.
    pub group_norms: Vec<(String, Tensor)>,
}

impl Apart {
    /// The rule of `config` over `groups`, whose tensors have the kinds of `storage` already. With `fused`, gradients that become
    /// complete between [`Apart::begin_pass`] and [`Apart::end_pass`] are applied at once.
    pub fn new(config: &OptimizerConfig, groups: Vec<ParamGroup>, storage: Storage, fused: bool) -> Result<Apart> {
        let mut list = Vec::new();
        if config.settings().needs_all_tensors() {
            list.push(Part::new(config, &groups, 0..groups.len(), &storage)?);
        } else {
            for (index, group) in groups.iter().enumerate() {
                for (name, parameter) in &group.parameters {
                    // The rule names what it keeps for a group after the group.
                    let alone = ParamGroup {
                        name: name.clone(),
                        learning_rate: group.learning_rate,
                        parameters: vec![(name.clone(), parameter.shallow_clone())],
                    };
                    list.push(Part::new(config, &[alone], index..index + 1, &storage)?);
                }
            }
        }
        let steps = Tensor::zeros([1], (Kind::Int64, Device::Cpu));
        let parts = Arc::new(Mutex::new(Parts { list, storage, steps, pass: None, scratch: Scratch::default() }));
        let hooks = if fused { hooks(&parts)? } else { Vec::new() };
        Ok(Apart { groups, parts, _hooks: hooks, training: None })
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        locked(&self.parts)
    }

    /// From here on gradients are applied, at `learning_rates`, as soon as they are complete. Nothing changes where `loss`, a number on
    /// the device, is not finite, nor does a tensor whose own gradient is not.
    pub fn begin_pass(&mut self, learning_rates: &[f64], loss: &Tensor) {
        let mut parts = self.parts();
        let norms = parts.list.iter().map(|_| None).collect();
        parts.steps += 1;
        parts.pass = Some(Pass { rates: learning_rates.to_vec(), loss: loss.detach(), norms });
    }

    /// Applies zeros where no gradient came, as without hooks, and says what came.
    pub fn end_pass(&mut self) -> Result<FusedOutcome> {
        let mut parts = self.parts();
        for index in 0..parts.list.len() {
            let parameter = parts.list[index].parameters[0].shallow_clone();
            let is_missing = parts.pass.as_ref().is_some_and(|pass| pass.norms[index].is_none());
            if is_missing && parameter.requires_grad() {
                let zeros = catch(|| parameter.detach().zeros_like())?;
                set_gradient(&parameter, Some(&zeros))?;
                parts.apply(index)?;
                set_gradient(&parameter, None)?;
            }
        }
        let Some(pass) = parts.pass.take() else {
            return Err(Error::Torch("there is no backward pass to end".into()));
        };
        let whole = |norms: &[&Tensor]| clip_grad_norm(&[catch(|| Tensor::stack(norms, 0))?], None);
        let norms_of = |group: usize| -> Vec<&Tensor> {
            let own = parts.list.iter().zip(&pass.norms).filter(|(part, _)| part.rates.start == group);
            own.filter_map(|(_, norm)| norm.as_ref()).collect()
        };
        let by_group: Vec<Vec<&Tensor>> = (0..self.groups.len()).map(norms_of).collect();
        let named = self.groups.iter().zip(&by_group).filter(|(_, norms)| !norms.is_empty());
        let group_norms = named.map(|(group, norms)| Ok((group.name.clone(), whole(norms)?)));
        let group_norms = group_norms.collect::<Result<_>>()?;
        Ok(FusedOutcome { norm: whole(&by_group.concat())?, group_norms })
    }

    /// Ends a backward pass that failed.
    pub fn abandon_pass(&mut self) {
        self.parts().pass = None;
    }
}

fn locked(parts: &Mutex<Parts>) -> MutexGuard<'_, Parts> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A hook for the parameter of every part.
fn hooks(parts: &Arc<Mutex<Parts>>) -> Result<Vec<GradientHook>> {
    let leaves: Vec<Tensor> = locked(parts).list.iter().map(|part| part.parameters[0].shallow_clone()).collect();
    let hook = |(index, leaf): (usize, &Tensor)| {
        let parts = parts.clone();
        GradientHook::new(leaf, move |leaf| {
            let mut parts = locked(&parts);
            if parts.pass.is_none() {
                return Ok(());
            }
            parts.apply(index)?;
            set_gradient(leaf, None)
        })
    };
    leaves.iter().enumerate().map(hook).collect()
}

impl Parts {
    /// Updates part `index` from the gradient of its one parameter.
    fn apply(&mut self, index: usize) -> Result<()> {
        let step = self.step_number();
        let Parts { list, storage, pass: Some(pass), scratch, .. } = self else { return Ok(()) };
        let part = &mut list[index];
        if pass.norms[index].is_some() {
            let message = "a gradient came in two parts, which `train.fused_backward` cannot wait for; set it to false";
            return Err(Error::Torch(message.into()));
        }
        // What a gradient in place of zeros would be: −0 has become 0.
        let gradient = catch(|| tch::no_grad(|| part.parameters[0].grad().detach().g_add_scalar_(0.0)))?;
        let norm = clip_grad_norm(&[gradient], None)?;
        let found_inf = catch(|| (&norm + &pass.loss).isfinite().logical_not().to_kind(Kind::Float).reshape([1]))?;
        pass.norms[index] = Some(norm);
        part.step(&pass.rates, &found_inf, storage, step, scratch)
    }

    fn step_number(&self) -> u64 {
        self.steps.int64_value(&[0]) as u64
    }
}

impl Part {
    /// Over `groups`, which are given `rates`.
    fn new(config: &OptimizerConfig, groups: &[ParamGroup], rates: Range<usize>, storage: &Storage) -> Result<Part> {
        let in_bf16 = storage.weights == StoredType::Bf16;
        let mut weights = Vec::new();
        let mut parameters = Vec::new();
        let mut of_rule = Vec::new();
        for group in groups {
            let mut list = Vec::new();
            for (name, kept) in &group.parameters {
                let working = if in_bf16 { working_copy(kept) } else { kept.shallow_clone() };
                if in_bf16 {
                    weights.push((name.clone(), working.shallow_clone(), kept.shallow_clone()));
                }
                parameters.push(kept.shallow_clone());
                list.push((name.clone(), working));
            }
            of_rule.push(ParamGroup { name: group.name.clone(), learning_rate: group.learning_rate, parameters: list });
        }
        let rule = build(config, of_rule);
        let is_large = |tensor: &Tensor| {
            tensor.kind() == Kind::Float && tensor.numel() > 1 && parameters.iter().any(|p| p.numel() == tensor.numel())
        };
        let mut state = Vec::new();
        if storage.state == StoredType::Bf16 {
            for (name, working) in rule.state().into_iter().filter(|(_, tensor)| is_large(tensor)) {
                let kept = catch(|| working.detach().to_kind(Kind::BFloat16))?;
                state.push(Stored::new(&name, working, kept, Rounding::Stochastic)?);
            }
        }
        let weights =
            weights.into_iter().map(|(name, working, kept)| Stored::new(&name, working, kept, storage.rounding));
        let adamw = match config {
            OptimizerConfig::AdamW(config) if !storage.is_plain() => Some(config.clone()),
            _ => None,
        };
        Ok(Part {
            rule,
            rates,
            parameters,
            weights: weights.collect::<Result<_>>()?,
            state,
            has_evaluation_weights: config.settings().averages_weights(),
            adamw,
        })
    }

    /// One step from the gradients that the parameters have; those that have none, or are trained no more, are left alone.
    fn step(
        &mut self,
        rates: &[f64],
        found_inf: &Tensor,
        storage: &Storage,
        step: u64,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let is_due = |parameter: &Tensor| parameter.requires_grad() && parameter.grad().defined();
        if !self.parameters.iter().any(is_due) {
            return Ok(());
        }
        if self.step_as_kept(rates, found_inf, storage, step)? {
            return Ok(());
        }
        // A rule that knows all tensors has them all in fp32 at once: kept, that would be there during the next pass too.
        let mut of_this_step = Scratch::default();
        let scratch = if self.parameters.len() == 1 { scratch } else { &mut of_this_step };
        self.unpack(scratch)?;
        for (weight, parameter) in self.weights.iter().zip(&self.parameters) {
            let gradient = match is_due(parameter) {
                true => Some(catch(|| tch::no_grad(|| scratch.in_fp32(&parameter.grad().detach())))?),
                false => None,
            };
            set_gradient(&weight.working, gradient.as_ref())?;
        }
        self.rule.step(&rates[self.rates.clone()], Some(found_inf))?;
        for weight in &self.weights {
            set_gradient(&weight.working, None)?;
        }
        let commit = Commit::new(Some(found_inf), device_of(self.rule.groups()));
        self.pack(storage, step, &commit)
    }

    /// AdamW's step with nothing unpacked, where its kernel takes all of it; the same bits as otherwise. Says whether it does.
    fn step_as_kept(&self, rates: &[f64], found_inf: &Tensor, storage: &Storage, step: u64) -> Result<bool> {
        let Some(config) = &self.adamw else { return Ok(false) };
        let parameter = &self.parameters[0];
        let gradient = parameter.grad();
        let state = self.named_state();
        let [(exp_avg_name, exp_avg), (exp_avg_sq_name, exp_avg_sq), (_, steps), ..] = state.as_slice() else {
            return Ok(false);
        };
        let compensation = self.weights.first().and_then(|weight| weight.compensation.as_ref());
        let suits = |tensor: &Tensor| {
            let is_known = matches!(tensor.kind(), Kind::Float | Kind::BFloat16);
            is_known && tensor.device() == Device::Cpu && tensor.is_contiguous()
        };
        if ![parameter, &gradient, exp_avg, exp_avg_sq].into_iter().chain(compensation).all(suits) {
            return Ok(false);
        }
        // In host memory it costs nothing to look.
        if catch(|| found_inf.reshape([1]).double_value(&[0]))? != 0.0 {
            return Ok(true);
        }
        let rounding = match storage.rounding {
            Rounding::Stochastic => {
                WeightRounding::Stochastic(storage.key(step, &self.rule.groups()[0].parameters[0].0))
            }
            Rounding::Nearest | Rounding::Kahan => WeightRounding::Nearest(compensation),
        };
        let moment_keys = [exp_avg_name, exp_avg_sq_name].map(|name| storage.key(step, name));
        let stored = AdamWStored { parameter, gradient: &gradient, exp_avg, exp_avg_sq, step: steps };
        adamw_stored(stored, rounding, moment_keys, adamw::numbers(config, rates[self.rates.start]))?;
        Ok(true)
    }

    fn unpack(&mut self, scratch: &mut Scratch) -> Result<()> {
        scratch.take_back();
        self.weights.iter_mut().chain(&mut self.state).try_for_each(|stored| stored.unpack(scratch))
    }

    fn pack(&mut self, storage: &Storage, step: u64, commit: &Commit) -> Result<()> {
        self.weights.iter_mut().chain(&mut self.state).try_for_each(|stored| stored.pack(storage, step, commit))
    }

    /// Everything that decides the next step but the weights.
    fn named_state(&self) -> Vec<(String, Tensor)> {
        let kept = |name: &str| self.state.iter().find(|stored| stored.name() == name);
        let of_rule = self.rule.state().into_iter().map(|(name, tensor)| match kept(&name) {
            Some(stored) => (name, stored.kept.shallow_clone()),
            None => (name, tensor),
        });
        let compensations = self.weights.iter().filter_map(|weight| {
            Some((format!("compensation.{}", weight.name()), weight.compensation.as_ref()?.shallow_clone()))
        });
        of_rule.chain(compensations).collect()
    }

    /// Puts the weights to evaluate into the parameters; everything else stays as it is.
    fn show_evaluation(&mut self, storage: &Storage) -> Result<()> {
        let evaluated: Vec<Tensor> = {
            self.unpack(&mut Scratch::default())?;
            self.rule.hold(Weights::Evaluation)?;
            let working = self.rule.groups().iter().flat_map(|group| &group.parameters);
            let evaluated = working.map(|(_, tensor)| tensor.detach().copy()).collect();
            self.rule.hold(Weights::Training)?;
            // Nothing has changed, so nothing is rounded to anything else, whatever the step.
            let unchanged = Commit::new(
                Some(&no_infinity(device_of(self.rule.groups())).ones_like()),
                device_of(self.rule.groups()),
            );
            self.pack(storage, 0, &unchanged)?;
            evaluated
        };
        for (parameter, evaluated) in self.parameters.iter().zip(&evaluated) {
            catch(|| tch::no_grad(|| parameter.shallow_clone().copy_(evaluated)))?;
        }
        Ok(())
    }
}

impl Optimizer for Apart {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()> {
        let none = no_infinity(device_of(&self.groups));
        let mut parts = self.parts();
        parts.steps += 1;
        let step = parts.step_number();
        let Parts { list, storage, scratch, .. } = &mut *parts;
        let found_inf = found_inf.unwrap_or(&none);
        list.iter_mut().try_for_each(|part| part.step(learning_rates, found_inf, storage, step, scratch))
    }

    fn forget_skipped(&mut self) {
        self.parts().steps -= 1;
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let parts = self.parts();
        let steps = [("rounding.step".to_string(), parts.steps.shallow_clone())];
        parts.list.iter().flat_map(Part::named_state).chain(steps).collect()
    }

    fn effective_rates(&self, learning_rates: &[f64]) -> Vec<f64> {
        let parts = self.parts();
        let mut rates = learning_rates.to_vec();
        for part in parts.list.iter().rev() {
            rates[part.rates.clone()].copy_from_slice(&part.rule.effective_rates(&learning_rates[part.rates.clone()]));
        }
        rates
    }

    fn hold(&mut self, weights: Weights) -> Result<()> {
        let parameters = || self.groups.iter().flat_map(|group| &group.parameters).map(|(_, parameter)| parameter);
        match (weights, self.training.take()) {
            (Weights::Training, Some(training)) => catch(|| {
                tch::no_grad(|| parameters().zip(&training).for_each(|(p, before)| p.shallow_clone().copy_(before)));
            }),
            (Weights::Training, None) => Ok(()),
            (Weights::Evaluation, Some(training)) => {
                self.training = Some(training);
                Ok(())
            }
            (Weights::Evaluation, None) => {
                if !self.parts().list.iter().any(|part| part.has_evaluation_weights) {
                    return Ok(());
                }
                let training = parameters().map(|parameter| parameter.detach().copy()).collect();
                let mut parts = self.parts();
                let Parts { list, storage, .. } = &mut *parts;
                list.iter_mut().try_for_each(|part| part.show_evaluation(storage))?;
                drop(parts);
                self.training = Some(training);
                Ok(())
            }
        }
    }

    fn apart(&mut self) -> Option<&mut Apart> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert_parameters;
    use sdtrain_recipe::{AdafactorConfig, DAdaptAdamConfig, ProdigyConfig};
    use sdtrain_torch_test_support::assert_equal;

    /// A number alone, less than a vector, vectors with a rest, and several parts of the kernel with a rest.
    const SHAPES: [&[i64]; 4] = [&[1], &[5], &[31, 33], &[3, 16_384 + 7]];

    /// Numbers of many sizes that look random; the process has one generator, and other tests draw from it.
    fn numbers(seed: f64, shape: &[i64]) -> Tensor {
        let places = Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, Device::Cpu));
        let sizes = ((&places * 0.37 + seed).sin() * 9.0 - 5.0).exp();
        ((places * 12.9898 + seed * 78.233).sin() * sizes).to_kind(Kind::Float).reshape(shape)
    }

    fn optimizer(storage: &Storage) -> Apart {
        optimizer_of(&OptimizerConfig::AdamW(AdamWConfig::default()), storage)
    }

    fn optimizer_of(config: &OptimizerConfig, storage: &Storage) -> Apart {
        let parameter = |(index, shape): (usize, &&[i64])| {
            (format!("part_{index}.weight"), numbers(index as f64, shape).set_requires_grad(true))
        };
        let parameters = SHAPES.iter().enumerate().map(parameter).collect();
        let groups = vec![ParamGroup { name: "unet".into(), learning_rate: 1.0, parameters }];
        convert_parameters(&groups, storage).expect("they are fp32");
        Apart::new(config, groups, storage.clone(), false).expect("it can be built")
    }

    fn all_of(optimizer: &Apart) -> Vec<(String, Tensor)> {
        let parameters = optimizer.groups.iter().flat_map(|group| &group.parameters);
        let parameters = parameters.map(|(name, parameter)| (name.clone(), parameter.detach()));
        parameters.chain(optimizer.state()).collect()
    }

    #[test]
    fn only_a_rule_that_knows_all_tensors_has_them_in_one_part() {
        let storage =
            Storage { weights: StoredType::Bf16, rounding: Rounding::Stochastic, state: StoredType::Fp32, seed: 42 };
        for (config, parts) in [
            (OptimizerConfig::Adafactor(AdafactorConfig::default()), SHAPES.len()),
            (OptimizerConfig::Prodigy(ProdigyConfig::default()), 1),
            (OptimizerConfig::DadaptAdam(DAdaptAdamConfig::default()), 1),
        ] {
            assert_eq!(optimizer_of(&config, &storage).parts().list.len(), parts, "{}", config.name());
        }
    }

    #[test]
    fn adamws_kernel_over_what_is_kept_has_the_bits_of_unpacking_all_and_rounding_it_back() {
        let threads = tch::get_num_threads();
        for (weights, rounding, state) in [
            (StoredType::Bf16, Rounding::Stochastic, StoredType::Fp32),
            (StoredType::Bf16, Rounding::Stochastic, StoredType::Bf16),
            (StoredType::Bf16, Rounding::Nearest, StoredType::Fp32),
            (StoredType::Bf16, Rounding::Nearest, StoredType::Bf16),
            (StoredType::Bf16, Rounding::Kahan, StoredType::Fp32),
            (StoredType::Bf16, Rounding::Kahan, StoredType::Bf16),
            (StoredType::Fp32, Rounding::Stochastic, StoredType::Bf16),
        ] {
            let storage = Storage { weights, rounding, state, seed: 42 };
            let (mut kernel, mut operations) = (optimizer(&storage), optimizer(&storage));
            operations.parts().list.iter_mut().for_each(|part| part.adamw = None);
            for step in 0..12 {
                // One of the steps must not count.
                let found_inf = Tensor::from_slice(&[if step == 5 { 1f32 } else { 0.0 }]);
                for optimizer in [&kernel, &operations] {
                    for (index, (_, parameter)) in optimizer.groups[0].parameters.iter().enumerate() {
                        let gradient = numbers((step * 10 + index) as f64, &parameter.size());
                        set_gradient(parameter, Some(&gradient.to_kind(parameter.kind()))).expect("it fits");
                    }
                }
                tch::set_num_threads(1 + (step % 2) as i32);
                kernel.step(&[1e-2], Some(&found_inf)).expect("a step");
                tch::set_num_threads(threads);
                operations.step(&[1e-2], Some(&found_inf)).expect("a step");
                for ((name, found), (_, expected)) in all_of(&kernel).iter().zip(&all_of(&operations)) {
                    assert_equal(&format!("{storage:?}, step {step}: {name}"), found, expected);
                }
            }
            let set = Tensor::from_slice(&[1f32]);
            let is_taken = |part: &Part| part.step_as_kept(&[1e-2], &set, &storage, 0).expect("nothing is done");
            assert!(kernel.parts().list.iter().all(is_taken) && !operations.parts().list.iter().any(is_taken));
        }
    }
}
