//! One optimizer step: prepare → forward_backward → update.

use crate::batches::Batch;
use crate::error::Result;
use crate::faults::Damage;
use crate::inputs::StepInputs;
use crate::magnitudes::{Magnitude, magnitudes};
use crate::objective::Objective;
use crate::seeded_bugs::{Bug, seeded};
use crate::trainable::Trainable;
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::{GradScaler, Optimizer, ParamGroup, clear_gradients, gradients};
use sdtrain_recipe::GradientCheckpointing;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Damages what a fault of `debug.faults` names among these groups, until it is dropped.
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
    /// Weights that are damaged in the last pass of this step.
    pub damage: DamageTo<'a>,
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
    /// The batches whose own loss is not finite, by their place in the step, where it was skipped.
    pub not_finite: Vec<usize>,
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
        let examples: usize = batches.iter().map(|batch| batch.examples.len()).sum();
        let scale = self.scaler.as_ref().map_or(1.0, |scaler| scaler.scale);
        let mut inputs = Vec::with_capacity(batches.len());
        let mut losses: Vec<Tensor> = Vec::with_capacity(batches.len());
        for (number, batch) in (first_pass..).zip(batches) {
            let prepared = self.objective.prepare(self.model, batch, number)?;
            self.trainable.begin_pass(number);
            let is_last = inputs.len() + 1 == batches.len();
            let damage = is_last.then(|| (self.damage)(self.optimizer.groups())).transpose()?;
            let part = self.forward_backward(&prepared, examples, scale, learning_rates);
            drop(damage);
            self.trainable.end_pass();
            losses.push(part?);
            inputs.push(prepared);
        }
        let loss = losses.iter().skip(1).fold(losses[0].shallow_clone(), |sum, part| sum + part);
        let update = match self.fused_backward {
            true => self.end_fused(&loss)?,
            false => self.update(&loss, learning_rates)?,
        };
        let is_spoiled = |place: &usize| update.skipped && !losses[*place].double_value(&[]).is_finite();
        let not_finite = (0..losses.len()).filter(is_spoiled).collect();
        Ok(StepOutcome { loss: loss.double_value(&[]), inputs, not_finite, ..update })
    }

    /// The loss of `batches` with the weights as they are; nothing changes.
    pub fn loss(&mut self, batches: &[Batch], first_pass: u64) -> Result<f64> {
        let examples: usize = batches.iter().map(|batch| batch.examples.len()).sum();
        let mut sum = 0.0;
        for (number, batch) in (first_pass..).zip(batches) {
            let inputs = self.objective.prepare(self.model, batch, number)?;
            self.trainable.begin_pass(number);
            let (objective, model) = (&*self.objective, self.model);
            let losses = sdtrain_torch::catch(|| {
                tch::no_grad(|| objective.losses(model, &inputs, GradientCheckpointing::None).sum(Kind::Float))
            });
            self.trainable.end_pass();
            sum += losses?.double_value(&[]);
        }
        Ok(sum / examples.max(1) as f64)
    }

    /// This batch's share of the step's loss, with its gradients added to the parameters', or applied at once. Depends on tensors
    /// alone and reads nothing back to the host.
    fn forward_backward(&mut self, inputs: &StepInputs, examples: usize, scale: f64, rates: &[f64]) -> Result<Tensor> {
        let mut fused = if self.fused_backward { self.optimizer.apart() } else { None };
        self.torn |= fused.is_some();
        let (objective, model, checkpointing) = (&*self.objective, self.model, self.gradient_checkpointing);
        let result = sdtrain_torch::catch(|| {
            let losses = objective.losses(model, inputs, checkpointing);
            let loss = losses.sum(Kind::Float) / examples as f64;
            if let Some(optimizer) = &mut fused {
                optimizer.begin_pass(rates, &loss);
            }
            (&loss * scale).backward();
            loss.detach()
        });
        if let (Err(_), Some(optimizer)) = (&result, fused) {
            optimizer.abandon_pass();
        }
        Ok(result?)
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
        let gradients = gradients(self.optimizer.groups());
        if let Some(scaler) = &self.scaler {
            let _ = scaler.unscale(&gradients)?;
        }
        // Before clipping, which scales them all.
        let group_norms = if self.measure_groups { self.group_norms()? } else { Vec::new() };
        let norm = sdtrain_torch::clip_grad_norm(&gradients, self.clip_norm)?;
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
            self.trainable.after_optimizer_step()?;
        }
        let group_norms = group_norms.into_iter().map(|(name, norm)| (name, norm.double_value(&[]))).collect();
        let grad_norm = norm.double_value(&[]);
        Ok(StepOutcome { grad_norm, group_norms, skipped, rescaled, magnitudes, ..StepOutcome::default() })
    }

    /// The gradient norm of each group that has gradients, on the device.
    fn group_norms(&self) -> Result<Vec<(String, Tensor)>> {
        let groups = self.optimizer.groups().iter();
        let with_gradients = groups.map(|group| (group, gradients(std::slice::from_ref(group))));
        let measured = with_gradients.filter(|(_, gradients)| !gradients.is_empty());
        let norm = |(group, gradients): (&ParamGroup, Vec<Tensor>)| {
            Ok((group.name.clone(), sdtrain_torch::clip_grad_norm(&gradients, None)?))
        };
        measured.map(norm).collect()
    }
}
