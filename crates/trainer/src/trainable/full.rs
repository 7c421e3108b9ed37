//! The model's own weights: UNet, text encoder, or both.

use super::Trainable;
use crate::error::Result;
use sdtrain_model::{Parameters, StableDiffusion};
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{FullConfig, ModelFormat};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Kind;

/// Full fine-tuning, or training from scratch.
pub struct Full {
    config: FullConfig,
    learning_rate: f64,
}

impl Full {
    /// Marks the trained networks' parameters.
    pub fn new(config: &FullConfig, learning_rate: f64, model: &StableDiffusion) -> Full {
        model.unet.parameters().set_requires_grad(config.train_unet);
        model.text_encoder.parameters().set_requires_grad(config.train_text_encoder);
        Full { config: config.clone(), learning_rate }
    }
}

/// All parameters of a network as one group.
pub(super) fn group(name: &str, learning_rate: f64, parameters: &Parameters) -> ParamGroup {
    let parameters = parameters.iter().map(|(p, tensor)| (format!("{name}.{p}"), tensor.shallow_clone()));
    ParamGroup { name: name.to_string(), learning_rate, parameters: parameters.collect() }
}

impl Trainable for Full {
    fn param_groups(&self, model: &StableDiffusion) -> Vec<ParamGroup> {
        let text_rate = self.config.text_encoder_learning_rate.unwrap_or(self.learning_rate);
        let mut groups = Vec::new();
        if self.config.train_unet {
            groups.push(group("unet", self.learning_rate, model.unet.parameters()));
        }
        if self.config.train_text_encoder {
            groups.push(group("text_encoder", text_rate, model.text_encoder.parameters()));
        }
        groups
    }

    fn save(
        &self,
        model: &StableDiffusion,
        folder: &Path,
        stem: &str,
        kind: Kind,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<PathBuf>> {
        let path = folder.join(&self.product_names(stem)[0]);
        match self.config.format {
            ModelFormat::SingleFile => model.save_single_file(&path, Some(kind), metadata)?,
            ModelFormat::Diffusers => model.save_folder(&path, Some(kind))?,
        }
        Ok(vec![path])
    }

    fn product_names(&self, stem: &str) -> Vec<String> {
        match self.config.format {
            ModelFormat::SingleFile => vec![format!("{stem}.safetensors")],
            ModelFormat::Diffusers => vec![stem.to_string()],
        }
    }
}
