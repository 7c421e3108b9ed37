//! What a model is asked for: how a batch becomes inputs, and inputs a loss.

mod autoencoding;
mod replay;
mod text_to_image;

pub use autoencoding::Autoencoding;
pub use replay::Replay;
pub use text_to_image::TextToImage;

use crate::batches::Batch;
use crate::error::Result;
use crate::inputs::StepInputs;
use sdtrain_model::StableDiffusion;
use tch::Tensor;

/// One objective.
pub trait Objective {
    /// Host work for one batch: encoding with frozen networks, drawing noise and timesteps. `pass` is the number of
    /// the forward pass in the run.
    fn prepare(&mut self, model: &StableDiffusion, batch: &Batch, pass: u64) -> Result<StepInputs>;

    /// The loss of each example, f32 `[batch]`, weights included. Only tensor operations, nothing read back to the
    /// host; panics like they do (see `sdtrain_torch::catch`).
    fn losses(&self, model: &StableDiffusion, inputs: &StepInputs, gradient_checkpointing: bool) -> Tensor;

    /// Whether batches must carry pixels.
    fn wants_pixels(&self) -> bool;
}
