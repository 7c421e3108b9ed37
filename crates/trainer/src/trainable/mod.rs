//! What carries gradients: its parameters, and the file it becomes.

mod full;
mod lora;
mod vae;

pub use full::Full;
pub use lora::LoraTrainable;
pub use vae::Vae;

use crate::error::Result;
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::ParamGroup;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Kind;

/// One way to carry gradients.
pub trait Trainable {
    /// Groups of leaf tensors with their rates. The names are those of traces: adapters under PEFT's, others
    /// under `unet.`, `text_encoder.` or `vae.` and their diffusers name.
    fn param_groups(&self, model: &StableDiffusion) -> Vec<ParamGroup>;

    /// Called before every forward pass, with its number in the run.
    fn begin_pass(&self, _number: u64) {}

    /// Called after every backward pass: validation and samples may follow.
    fn end_pass(&self) {}

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

    /// `lora` or `None`, for the product's ModelSpec architecture.
    fn adapter_kind(&self) -> Option<&'static str> {
        None
    }
}
