//! The autoencoder's weights.

use super::Trainable;
use super::full::group;
use crate::error::Result;
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{ModelFormat, TrainConfig, VaeProduct};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Kind;

/// Training of the autoencoder, or of its decoder alone. The product is a whole model with the new autoencoder, or that alone.
pub struct Vae {
    learning_rate: f64,
    trains_encoder: bool,
    product: VaeProduct,
    format: ModelFormat,
}

impl Vae {
    /// Marks the trained parameters.
    pub fn new(config: &TrainConfig, model: &StableDiffusion) -> Vae {
        let trains_weight = config.trainable_facts().trains_weight;
        for (name, parameter) in model.vae.parameters().iter() {
            let _ = parameter.set_requires_grad(trains_weight(config, &format!("vae.{name}")));
        }
        let (product, format) = (config.vae_objective.product, config.full.format);
        let trains_encoder = config.vae_objective.train_encoder;
        Vae { learning_rate: config.optimizer.learning_rate(), trains_encoder, product, format }
    }
}

impl Trainable for Vae {
    fn param_groups(&self, model: &StableDiffusion) -> Vec<ParamGroup> {
        let mut group = group("vae", self.learning_rate, model.vae.parameters());
        group.parameters.retain(|(_, parameter)| parameter.requires_grad());
        vec![group]
    }

    fn moves_latents(&self) -> bool {
        self.trains_encoder
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
        match (self.product, self.format) {
            (VaeProduct::Model, ModelFormat::SingleFile) => model.save_single_file(&path, Some(kind), metadata)?,
            (VaeProduct::Model, ModelFormat::Diffusers) => model.save_folder(&path, Some(kind), metadata)?,
            (VaeProduct::Vae, ModelFormat::SingleFile) => model.save_vae_file(&path, Some(kind), metadata)?,
            (VaeProduct::Vae, ModelFormat::Diffusers) => model.save_vae_folder(&path, Some(kind), metadata)?,
        }
        Ok(vec![path])
    }

    fn product_names(&self, stem: &str) -> Vec<String> {
        vec![self.format.file_name(stem)]
    }
}
