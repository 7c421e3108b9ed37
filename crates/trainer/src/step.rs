//! One optimizer step: prepare → forward_backward → update.

use crate::batches::Batch;
use crate::error::Result;
use crate::faults::Damage;
use crate::inputs::StepInputs;
use crate::magnitudes::{Magnitude, magnitudes};
use crate::objective::Objective;
use crate::ranks::{GradientReducer, Ranks};
use crate::seeded_bugs::{Bug, fail_in, seeded};
use crate::trainable::Trainable;
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::{GradScaler, Optimizer, ParamGroup, clear_gradients, gradients};
use sdtrain_recipe::GradientCheckpointing;
use sdtrain_torch::span;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// What the faults of `debug.faults` name among these groups.
type DamageTo<'a> = Box<dyn Fn(&[ParamGroup]) -> Result<Damage> + 'a>;

/// Everything a step works on.
pub struct Step<'a> {
    /// The model.
    pub model: &'a StableDiffusion,
    /// What carries gradients.
    pub trainable: &'a dyn Trainable,
    /// What it is asked for.
    pub objective: &'a mut dyn Objective,
    /// How parameters follow their gradients.
    pub optimizer: &'a mut dyn Optimizer,
    /// Loss scaling, in fp16.
    pub scaler: Option<&'a mut GradScaler>,
    /// Which activations are computed again in backward.
    pub gradient_checkpointing: GradientCheckpointing,
    /// Clip gradients to this norm.
    pub clip_norm: Option<f64>,
    /// Apply each gradient as soon as it is complete.
    pub fused_backward: bool,
    /// Measure the gradient norm of each parameter group, too.
    pub measure_groups: bool,
    /// Weights that are damaged in passes of this step.
    pub damage: DamageTo<'a>,
    /// Who else computes parts of the step.
    pub ranks: &'a Ranks,
    /// How their gradients become one.
    pub reducer: &'a mut dyn GradientReducer,
    /// Parts of a batch that this process computes.
    pub parts_of_batch: usize,
    /// Parts of a step, over all ranks.
    pub places: usize,
    /// Set when the weights begin to change: where an error comes out of the step after that, nobody knows how far.
    pub torn: bool,
}

/// What a step measured.
#[derive(Debug, Default)]
pub struct StepOutcome {
    /// Mean over the step's examples.
    pub loss: f64,
    /// Before clipping, over all trained tensors.
    pub grad_norm: f64,
    /// Of each parameter group that has gradients, by its name; empty unless asked for.
    pub group_norms: Vec<(String, f64)>,
    /// The parameters were left alone because a gradient was not finite.
    pub skipped: bool,
    /// That was an overflow of scaled gradients, which a smaller scale is expected to mend.
    pub rescaled: bool,
    /// But some were not, since their own gradient was finite and was applied before.
    pub torn: bool,
    /// The batches of this rank whose own loss is not finite, by their number among them, where it was skipped.
    pub not_finite: Vec<usize>,
    /// Whether the loss of any batch is not finite, at whatever rank, where it was skipped.
    pub some_not_finite: bool,
    /// Of a step that was skipped, but not `rescaled`, whose gradients were still there: the largest weight and gradient of each
    /// module.
    pub magnitudes: BTreeMap<String, Magnitude>,
    /// What each micro-batch was given, for traces.
    pub inputs: Vec<StepInputs>,
}

impl Step<'_> {
    /// One step over `batches` (several with gradient accumulation) at `learning_rates`, one a parameter group.
    /// `first_pass` is the number of the first forward pass in the run.
    pub fn run(&mut self, batches: &[Batch], learning_rates: &[f64], first_pass: u64) -> Result<StepOutcome> {
        let examples = self.examples_of(batches);
        let scale = self.scaler.as_ref().map_or(1.0, |scaler| scaler.scale);
        let mut inputs = Vec::with_capacity(batches.len());
        let mut losses: Vec<Option<Tensor>> = Vec::with_capacity(batches.len());
        // Of a short batch some ranks have no part.
        let last = batches.iter().rposition(|batch| !batch.examples.is_empty());
        let damage = (self.damage)(self.optimizer.groups())?;
        for (number, batch) in batches.iter().enumerate() {
            if batch.examples.is_empty() {
                losses.push(None);
                continue;
            }
            let pass = first_pass + batch.place as u64;
            let preparing = span(c"prepare");
            let prepared = self.objective.prepare(self.model, batch, pass)?;
            drop(preparing);
            self.trainable.begin_pass(pass);
            let is_last = last == Some(number);
            let damaged = damage.in_pass(batch.place as u64 + 1, is_last)?;
            if is_last {
                self.reducer.begin_last_pass(self.ranks, self.optimizer.groups())?;
            }
            let part = self.forward_backward(&prepared, examples, scale, learning_rates);
            drop(damaged);
            self.trainable.end_pass();
            losses.push(Some(part?));
            inputs.push(prepared);
        }
        if last.is_none() {
            self.reducer.begin_last_pass(self.ranks, self.optimizer.groups())?;
            self.reducer.pass_without_examples(self.ranks, self.optimizer.groups())?;
        }
        let parts = self.losses_of_all(batches, &losses)?;
        let loss = parts.iter().skip(1).fold(parts[0].shallow_clone(), |sum, part| sum + part);
        let update = match self.fused_backward {
            true => self.end_fused(&loss)?,
            false => self.update(&loss, learning_rates)?,
        };
        let is_spoiled = |loss: &Tensor| update.skipped && !loss.double_value(&[]).is_finite();
        let not_finite = (0..losses.len()).filter(|&number| losses[number].as_ref().is_some_and(is_spoiled)).collect();
        let some_not_finite = parts.iter().any(is_spoiled);
        Ok(StepOutcome { loss: loss.double_value(&[]), inputs, not_finite, some_not_finite, ..update })
    }

    /// How many examples the step has on all ranks together.
    fn examples_of(&self, batches: &[Batch]) -> usize {
        batches.iter().map(|batch| batch.whole).sum::<usize>() / self.parts_of_batch
    }

    /// The losses of the step's parts, whoever computed them, in their order.
    fn losses_of_all(&self, batches: &[Batch], losses: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
        let own = batches.iter().zip(losses).filter_map(|(batch, loss)| Some((batch.place, loss.as_ref()?)));
        if self.ranks.size() == 1 {
            return Ok(own.map(|(_, loss)| loss.shallow_clone()).collect());
        }
        let own = own.map(|(place, loss)| (place, loss.double_value(&[])));
        let all = self.ranks.exchange(&own.collect(), self.places)?;
        let device = self.model.device;
        Ok(all.iter().map(|&loss| Tensor::from_slice(&[loss as f32]).reshape([0i64; 0]).to_device(device)).collect())
    }

    /// The loss of `batches` with the weights as they are; nothing changes.
    pub fn loss(&mut self, batches: &[Batch], first_pass: u64) -> Result<f64> {
        let examples = self.examples_of(batches);
        let mut own = BTreeMap::new();
        for batch in batches.iter().filter(|batch| !batch.examples.is_empty()) {
            let pass = first_pass + batch.place as u64;
            let inputs = self.objective.prepare(self.model, batch, pass)?;
            self.trainable.begin_pass(pass);
            let (objective, model) = (&*self.objective, self.model);
            let losses = sdtrain_torch::catch(|| {
                tch::no_grad(|| objective.losses(model, &inputs, GradientCheckpointing::None).sum(Kind::Float))
            });
            self.trainable.end_pass();
            own.insert(batch.place, losses?.double_value(&[]));
        }
        let all: Vec<f64> = match self.ranks.size() {
            1 => own.into_values().collect(),
            _ => self.ranks.exchange(&own, self.places)?,
        };
        Ok(all.iter().sum::<f64>() / examples.max(1) as f64)
    }

    /// This batch's share of the step's loss, with its gradients added to the parameters', or applied at once. Depends on tensors
    /// alone and reads nothing back to the host.
    fn forward_backward(&mut self, inputs: &StepInputs, examples: usize, scale: f64, rates: &[f64]) -> Result<Tensor> {
        let mut fused = if self.fused_backward { self.optimizer.apart() } else { None };
        let torn = &mut self.torn;
        let (objective, model, checkpointing) = (&*self.objective, self.model, self.gradient_checkpointing);
        let (ranks, sums_meanwhile) = (self.ranks, self.reducer.is_under_way());
        let result = sdtrain_torch::catch(|| {
            let forward = span(c"forward");
            let losses = objective.losses(model, inputs, checkpointing);
            let loss = losses.sum(Kind::Float) / examples as f64;
            drop(forward);
            if let Some(optimizer) = &mut fused {
                *torn = true;
                optimizer.begin_pass(rates, &loss);
            }
            if sums_meanwhile {
                ranks.joins();
            }
            fail_in("backward");
            let backward = span(c"backward");
            (&loss * scale).backward();
            drop(backward);
            if sums_meanwhile {
                ranks.works();
            }
            loss.detach()
        });
        if let (Err(_), Some(optimizer)) = (&result, fused) {
            optimizer.abandon_pass();
        }
        // The sums of a reducer are a part of the backward pass.
        result.map_err(|error| self.ranks.explain(error))
    }

    /// The outcome of a step whose gradients were applied within the backward pass.
    fn end_fused(&mut self, loss: &Tensor) -> Result<StepOutcome> {
        let optimizer = self.optimizer.apart().expect("an optimizer that updates each tensor apart is built for it");
        let outcome = optimizer.end_pass()?;
        let grad_norm = outcome.norm.double_value(&[]);
        let loss_is_finite = loss.double_value(&[]).is_finite();
        let skipped = !(grad_norm.is_finite() && loss_is_finite);
        if !skipped {
            self.trainable.after_optimizer_step()?;
        }
        let group_norms = match self.measure_groups {
            true => outcome.group_norms.into_iter().map(|(name, norm)| (name, norm.double_value(&[]))).collect(),
            false => Vec::new(),
        };
        Ok(StepOutcome { grad_norm, group_norms, skipped, torn: skipped && loss_is_finite, ..StepOutcome::default() })
    }

    /// The outcome, as far as the update knows it.
    fn update(&mut self, loss: &Tensor, learning_rates: &[f64]) -> Result<StepOutcome> {
        let _update = span(c"update");
        self.reducer.reduce(self.ranks, self.optimizer.groups())?;
        let gradients = gradients(self.optimizer.groups());
        if let Some(scaler) = &self.scaler {
            let _ = scaler.unscale(&gradients)?;
        }
        // Before clipping, which scales them all.
        let group_norms = if self.measure_groups { self.group_norms()? } else { Vec::new() };
        let norm = match self.reducer.is_shared_out() {
            false => sdtrain_torch::clip_grad_norm(&gradients, self.clip_norm)?,
            true => self.clip_shares(&gradients)?,
        };
        // A step with a gradient or loss that is not finite must not reach the parameters: decided on the device.
        let sum = &norm + loss;
        let found_inf = sum.isfinite().logical_not().to_kind(Kind::Float).reshape([1]);
        self.torn = true;
        self.optimizer.step(learning_rates, (!seeded(Bug::ApplyNotFinite)).then_some(&found_inf))?;
        let skipped = found_inf.double_value(&[0]) != 0.0;
        if let Some(scaler) = &mut self.scaler {
            scaler.update(skipped);
        }
        let rescaled = skipped && self.scaler.as_ref().is_some_and(|scaler| scaler.can_mend(loss.double_value(&[])));
        let magnitudes = match skipped && !rescaled {
            true => magnitudes(self.optimizer.groups())?,
            false => BTreeMap::new(),
        };
        clear_gradients(self.optimizer.groups());
        if !skipped {
            self.reducer.after_update(self.ranks, self.optimizer.groups())?;
            self.trainable.after_optimizer_step()?;
        }
        let group_norms = group_norms.into_iter().map(|(name, norm)| (name, norm.double_value(&[]))).collect();
        let grad_norm = norm.double_value(&[]);
        Ok(StepOutcome { grad_norm, group_norms, skipped, rescaled, magnitudes, ..StepOutcome::default() })
    }

    /// Clips gradients of which each rank has its share: the norm of all of them, as `clip_grad_norm` finds it at one rank.
    fn clip_shares(&self, gradients: &[Tensor]) -> Result<Tensor> {
        let norm = self.reducer.total_norm(self.ranks, sdtrain_torch::clip_grad_norm(gradients, None)?)?;
        if let Some(largest) = self.clip_norm {
            sdtrain_torch::catch(|| {
                let factor = (largest / (&norm + 1e-6)).clamp_max(1.0);
                let factor = factor.where_self(&norm.isfinite(), &factor.ones_like());
                tch::no_grad(|| gradients.iter().for_each(|gradient| drop(gradient.shallow_clone().g_mul_(&factor))));
            })?;
        }
        Ok(norm)
    }

    /// The gradient norm of each group that has gradients, on the device.
    fn group_norms(&self) -> Result<Vec<(String, Tensor)>> {
        let groups = self.optimizer.groups().iter();
        let with_gradients = groups.map(|group| (group, gradients(std::slice::from_ref(group))));
        let measured = with_gradients.filter(|(_, gradients)| !gradients.is_empty());
        let norm = |(group, gradients): (&ParamGroup, Vec<Tensor>)| {
            let norm = sdtrain_torch::clip_grad_norm(&gradients, None)?;
            Ok((group.name.clone(), self.reducer.total_norm(self.ranks, norm)?))
        };
        measured.map(norm).collect()
    }
}
