#![doc = include_str!("../README.md")]

mod adamw;
mod ema;
mod grad_scaler;
mod lr_schedule;

pub use ema::Ema;
pub use grad_scaler::GradScaler;
pub use lr_schedule::learning_rate_factor;

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
pub trait Optimizer {
    /// Updates every parameter from its gradient, each group at `learning_rates[group]`. Where the one-element tensor
    /// `found_inf` is 1 nothing changes. A parameter without a gradient is left alone, and so is one that is trained no more
    /// (`requires_grad`): neither it nor its state changes.
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> Result<()>;

    /// The groups it updates.
    fn groups(&self) -> &[ParamGroup];

    /// Everything but the parameters that decides the next step, by name.
    fn state(&self) -> Vec<(String, Tensor)>;

    /// Restores what [`Optimizer::state`] gave; `find` looks a name up.
    fn load_state(&mut self, find: &mut dyn FnMut(&str) -> Option<Tensor>) -> std::result::Result<(), MissingState>;
}

/// A saved state lacks a tensor.
#[derive(Debug, thiserror::Error)]
#[error("the saved optimizer state lacks `{0}`")]
pub struct MissingState(pub String);

/// The optimizer that `config` describes, over `groups`.
pub fn build(config: &OptimizerConfig, groups: Vec<ParamGroup>) -> Box<dyn Optimizer> {
    match config {
        OptimizerConfig::AdamW(config) => Box::new(adamw::AdamW::new(config, groups)),
    }
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
    let trained = groups.iter().flat_map(|g| &g.parameters).filter(|(_, p)| p.requires_grad());
    trained.map(|(_, p)| p.grad()).filter(Tensor::defined).collect()
}
