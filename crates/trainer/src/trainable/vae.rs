//! The autoencoder's weights.

use super::Trainable;
use super::full::group;
use crate::error::Result;
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::VaeConfig;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Kind;

/// Training of the autoencoder, or of its decoder alone. The product is a whole model with the new autoencoder.
pub struct Vae {
    learning_rate: f64,
}

impl Vae {
    /// Marks the trained parameters.
    pub fn new(config: &VaeConfig, learning_rate: f64, model: &StableDiffusion) -> Vae {
        for (name, parameter) in model.vae.parameters().iter() {
            let is_decoder = name.starts_with("decoder.") || name.starts_with("post_quant_conv.");
            let _ = parameter.set_requires_grad(config.train_encoder || is_decoder);
        }
        Vae { learning_rate }
    }
}

impl Trainable for Vae {
    fn param_groups(&self, model: &StableDiffusion) -> Vec<ParamGroup> {
        let mut group = group("vae", self.learning_rate, model.vae.parameters());
        group.parameters.retain(|(_, parameter)| parameter.requires_grad());
        vec![group]
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
        model.save_single_file(&path, Some(kind), metadata)?;
        Ok(vec![path])
    }

    fn product_names(&self, stem: &str) -> Vec<String> {
        vec![format!("{stem}.safetensors")]
    }
}
