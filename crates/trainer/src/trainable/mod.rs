//! What carries gradients: its parameters, and the file it becomes.

mod full;
mod groups;
mod lora;
mod textual_inversion;
mod vae;

use full::Full;
use groups::GroupRates;
use lora::LoraTrainable;
use textual_inversion::{TextualInversion, WithWords};
use vae::Vae;

use crate::error::Result;
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{TrainConfig, TrainableKind, Words};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Kind;

/// What carries the gradients of a run: the list's one place.
pub fn build(config: &TrainConfig, model: &StableDiffusion) -> Result<Box<dyn Trainable>> {
    let trained: Box<dyn Trainable> = match config.trainable_kind() {
        TrainableKind::Lora => Box::new(LoraTrainable::new(config, model)?),
        TrainableKind::Full => Box::new(Full::new(config, model)?),
        TrainableKind::Vae => Box::new(Vae::new(config, model)),
        TrainableKind::TextualInversion => Box::new(TextualInversion::new(config, model)?),
    };
    let words_beside = config.trainable_facts().words == Words::Beside && !config.learned_tokens().is_empty();
    Ok(if words_beside { Box::new(WithWords::new(trained, config, model)?) } else { trained })
}

/// One way to carry gradients.
pub trait Trainable {
    /// Groups of leaf tensors with their rates. The names are those of traces: adapters under PEFT's, others
    /// under `unet.`, `text_encoder.` or `vae.` and their diffusers name.
    fn param_groups(&self, model: &StableDiffusion) -> Vec<ParamGroup>;

    /// Called before every forward pass, with its number in the run.
    fn begin_pass(&self, _number: u64) {}

    /// Called after every backward pass: validation and samples may follow.
    fn end_pass(&self) {}

    /// Called after every optimizer step that was not skipped, for limits on what was trained.
    fn after_optimizer_step(&self) -> Result<()> {
        Ok(())
    }

    /// Lengths of what was learned, for logs: tag and number. May take as long as a small part of a step.
    fn weight_norms(&self) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }

    /// Whether images have other latents by now, so that what the UNet scales them by is to be found anew.
    fn moves_latents(&self) -> bool {
        false
    }

    /// Writes the product `folder/stem…` and returns its files. `metadata` describes the run.
    fn save(
        &self,
        model: &StableDiffusion,
        folder: &Path,
        stem: &str,
        kind: Kind,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<PathBuf>>;

    /// Names of the files that [`Trainable::save`] would write.
    fn product_names(&self, stem: &str) -> Vec<String>;

    /// `lora`, `textual-inversion` or `None`, for the product's ModelSpec architecture.
    fn adapter_kind(&self) -> Option<&'static str> {
        None
    }
}
