#![doc = include_str!("../README.md")]

mod adafactor;
mod adamw;
mod adamw_8bit;
mod adamw_schedule_free;
mod apart;
mod came;
mod d_estimate;
mod dadapt_adam;
mod ema;
mod factored;
mod grad_scaler;
mod lion;
mod lr_schedule;
mod muon;
mod prodigy;
mod quantized;
mod sgd;
mod stored;
mod update;

pub use apart::{Apart, FusedOutcome};
pub use ema::Ema;
pub use grad_scaler::GradScaler;
pub use lr_schedule::learning_rate_factor;
pub use stored::{Storage, convert_parameters};

use sdtrain_recipe::OptimizerConfig;
use sdtrain_torch::Result;
use tch::Tensor;

/// Parameters that share a learning rate.
#[derive(Debug)]
pub struct ParamGroup {
    /// Shown in logs: `unet`, `text_encoder`.
    pub name: String,
    /// The rate before any schedule.
    pub learning_rate: f64,
    /// Name and leaf tensor of each parameter.
    pub parameters: Vec<(String, Tensor)>,
}

/// An update rule with its state.
pub trait Optimizer: Send {
    /// Updates every parameter from its gradient, each group at `learning_rates[group]`. Where the one-element tensor
    /// `found_inf` is 1 nothing changes. A parameter without a gradient is left alone, and so is one that is trained no more
    /// (`requires_grad`): neither it nor its state changes.
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()>;

    /// The last step, which has changed nothing, counts as never tried.
    fn forget_skipped(&mut self) {}

    /// The groups it updates.
    fn groups(&self) -> &[ParamGroup];

    /// Everything but the parameters that decides the next step, by name: the tensors themselves, not copies.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Restores what [`Optimizer::state`] gave; `find` looks a name up.
    fn load_state(&mut self, find: &mut dyn FnMut(&str) -> Option<Tensor>) -> std::result::Result<(), MissingState> {
        for (name, mut slot) in self.state() {
            let saved = find(&name).filter(|saved| saved.size() == slot.size());
            let saved = saved.ok_or_else(|| MissingState(name.clone()))?;
            tch::no_grad(|| slot.copy_(&saved));
        }
        Ok(())
    }

    /// The rates that parameters really move at where `learning_rates` are those of the schedule, for the log. Reads
    /// from the device where the optimizer finds them by itself.
    fn effective_rates(&self, learning_rates: &[f64]) -> Vec<f64> {
        learning_rates.to_vec()
    }

    /// Puts these weights into the parameters. Training goes on, and checkpoints are written, with
    /// [`Weights::Training`] alone, and finds the very bits that were there.
    fn hold(&mut self, _weights: Weights) -> Result<()> {
        Ok(())
    }

    /// Itself where it updates each tensor apart, as bf16 weights and updates within the backward pass need it.
    fn apart(&mut self) -> Option<&mut Apart> {
        None
    }
}

/// Which weights the parameters are. Most optimizers have but one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// Those that gradients are taken at.
    Training,
    /// Those that are validated, drawn with and handed out.
    Evaluation,
}

/// A saved state lacks a tensor.
#[derive(Debug, thiserror::Error)]
#[error(
    "the saved optimizer state lacks `{0}`, or has it in another size: it is another optimizer's, another model's, or one of other \
     settings (`[optimizer]`, `precision.rounding`, `train.fused_backward`)"
)]
pub struct MissingState(pub String);

/// The optimizer that `config` describes, over `groups`.
pub fn build(config: &OptimizerConfig, groups: Vec<ParamGroup>) -> Box<dyn Optimizer> {
    match config {
        OptimizerConfig::AdamW(config) => Box::new(adamw::AdamW::new(config, groups)),
        OptimizerConfig::AdamW8bit(config) => Box::new(adamw_8bit::AdamW8bit::new(config, groups)),
        OptimizerConfig::Adafactor(config) => Box::new(adafactor::Adafactor::new(config, groups)),
        OptimizerConfig::Lion(config) => Box::new(lion::Lion::new(config, groups)),
        OptimizerConfig::Sgd(config) => Box::new(sgd::Sgd::new(config, groups)),
        OptimizerConfig::Prodigy(config) => Box::new(prodigy::Prodigy::new(config, groups)),
        OptimizerConfig::DadaptAdam(config) => Box::new(dadapt_adam::DAdaptAdam::new(config, groups)),
        OptimizerConfig::AdamWScheduleFree(config) => {
            Box::new(adamw_schedule_free::AdamWScheduleFree::new(config, groups))
        }
        OptimizerConfig::Came(config) => Box::new(came::Came::new(config, groups)),
        OptimizerConfig::Muon(config) => Box::new(muon::Muon::new(config, groups)),
    }
}

/// The same where weights or state may be kept in bf16 (the parameters of `groups` become bf16 then), or gradients are to be applied
/// in the midst of the backward pass.
pub fn build_stored(
    config: &OptimizerConfig,
    groups: Vec<ParamGroup>,
    storage: Storage,
    fused_backward: bool,
) -> Result<Box<dyn Optimizer>> {
    if storage.is_plain() && !fused_backward {
        return Ok(build(config, groups));
    }
    convert_parameters(&groups, &storage)?;
    Ok(Box::new(Apart::new(config, groups, storage, fused_backward)?))
}

/// Gives every trained parameter a gradient, of zeros where it has none. Otherwise a layer that takes no part in a step (module
/// dropout) would be left alone before its first gradient and follow its momentum after it, and a continued run, in which
/// each gradient is a first one, would differ from the run that never stopped.
pub fn prepare_gradients(groups: &[ParamGroup]) -> Result<()> {
    let parameters = groups.iter().flat_map(|group| &group.parameters).map(|(_, parameter)| parameter);
    sdtrain_torch::catch(|| {
        for parameter in parameters.filter(|parameter| parameter.requires_grad() && !parameter.grad().defined()) {
            (parameter * 0.0).sum(tch::Kind::Float).backward();
        }
    })
}

/// Sets all gradients to zero in place, so that their memory is kept for the next step.
pub fn clear_gradients(groups: &[ParamGroup]) {
    for (_, parameter) in groups.iter().flat_map(|g| &g.parameters) {
        let mut gradient = parameter.grad();
        if gradient.defined() {
            let _ = gradient.zero_();
        }
    }
}

/// The gradients that exist, over all groups; not those of parameters that are trained no more.
pub fn gradients(groups: &[ParamGroup]) -> Vec<Tensor> {
    with_gradients(groups).map(|(_, _, gradient)| gradient).collect()
}

/// Name, tensor and gradient of the parameters that [`gradients`] are of, in the same order.
pub fn with_gradients(groups: &[ParamGroup]) -> impl Iterator<Item = (&str, &Tensor, Tensor)> {
    let trained = groups.iter().flat_map(|g| &g.parameters).filter(|(_, p)| p.requires_grad());
    trained.map(|(name, p)| (name.as_str(), p, p.grad())).filter(|(_, _, gradient)| gradient.defined())
}
