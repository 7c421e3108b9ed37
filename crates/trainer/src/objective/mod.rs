//! What a model is asked for: how a batch becomes inputs, and inputs a loss.

mod autoencoding;
mod dreambooth;
mod inpainting;
mod replay;
mod text_to_image;

use autoencoding::Autoencoding;
use dreambooth::DreamBooth;
use inpainting::Inpainting;
use replay::Replay;
use text_to_image::TextToImage;

use crate::batches::Batch;
use crate::error::Result;
use crate::inputs::StepInputs;
use sdtrain_data_loader::DataSet;
use sdtrain_model::{Frozen, StableDiffusion};
use sdtrain_recipe::{GradientCheckpointing, ObjectiveKind, TrainConfig};
use std::sync::Arc;
use std::time::Duration;
use tch::Tensor;

/// The objective of a run: the list's one place. Encodes what is encoded once.
pub fn build(config: &TrainConfig, model: &StableDiffusion, data: &Arc<DataSet>) -> Result<Box<dyn Objective>> {
    let objective: Box<dyn Objective> = match config.objective_kind() {
        ObjectiveKind::TextToImage => Box::new(TextToImage::new(config, model, data)?),
        ObjectiveKind::Dreambooth => Box::new(DreamBooth::new(config, model, data)?),
        ObjectiveKind::Inpainting => Box::new(Inpainting::new(config, model, data)?),
        ObjectiveKind::Autoencoding => Box::new(Autoencoding::new(config, model.device)?),
    };
    Ok(match &config.debug.trace_inputs {
        Some(path) => Box::new(Replay::open(path, objective)?),
        None => objective,
    })
}

/// One objective.
pub trait Objective {
    /// Host work for one batch: encoding with frozen networks, drawing noise and timesteps. `pass` is the number of
    /// the forward pass in the run.
    fn prepare(&mut self, model: &StableDiffusion, batch: &Batch, pass: u64) -> Result<StepInputs>;

    /// The loss of each example, f32 `[batch]`, weights included. Only tensor operations, nothing read back to the
    /// host; panics like they do (see `sdtrain_torch::catch`).
    fn losses(
        &self,
        model: &StableDiffusion,
        inputs: &StepInputs,
        gradient_checkpointing: GradientCheckpointing,
    ) -> Tensor;

    /// The frozen networks that the coming steps do without, as far as can be known: their memory is free for something else.
    fn idle(&self) -> &'static [Frozen] {
        &[]
    }

    /// Whether batches must carry pixels.
    fn wants_pixels(&self) -> bool;

    /// Whether batches must carry the masks of their images, pixels or not.
    fn wants_masks(&self) -> bool {
        false
    }

    /// How long it has read latents and text states from their caches, since the last call.
    fn take_data_wait(&mut self) -> Duration {
        Duration::ZERO
    }
}
