//! The model's own weights: UNet, text encoders, or both.

use super::{GroupRates, Trainable};
use crate::error::{Error, Result};
use sdtrain_evaluate::prompt_reading;
use sdtrain_model::{Parameters, StableDiffusion};
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{ModelFormat, TrainConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// Full fine-tuning, or training from scratch.
pub struct Full {
    format: ModelFormat,
    rates: GroupRates,
}

impl Full {
    /// Marks the trained parameters.
    pub fn new(config: &TrainConfig, model: &StableDiffusion) -> Result<Full> {
        let rates = GroupRates::new(config, model)?;
        let full = &config.full;
        let mut trained = 0;
        let parameters = all_parameters(model);
        for (name, parameter) in &parameters {
            // Weight decay alone would change what nothing depends on.
            let is_asked = !model.is_never_asked(name, &prompt_reading(&config.model));
            let is_trained = full.trains(name) && !rates.freezes(name) && is_asked;
            trained += usize::from(is_trained);
            let _ = parameter.set_requires_grad(is_trained);
        }
        let wrong = |message: String| Err(Error::Config { message, hint: Some(NAMES_HINT.into()) });
        if let Some((key, pattern)) =
            config.trainable_facts().idle_pattern(parameters.iter().map(|(name, _)| name.as_str()))
        {
            return wrong(format!("`{key}` has the pattern \"{pattern}\", which matches no parameter of the model"));
        }
        if trained == 0 {
            return wrong("nothing is trained: `full.targets`, `full.freeze` and `[blocks]` leave no parameter".into());
        }
        Ok(Full { format: full.format, rates })
    }
}

const NAMES_HINT: &str = "names are those of diffusers behind `unet.`, `text_encoder.` and `text_encoder_2.`";

/// Every parameter of UNet and text encoders under its name in traces.
fn all_parameters(model: &StableDiffusion) -> Vec<(String, Tensor)> {
    let networks = model.networks().into_iter().filter(|(network, _)| *network != "vae");
    let named = |(network, parameters): (&'static str, &'_ Parameters)| -> Vec<(String, Tensor)> {
        parameters.iter().map(|(name, tensor)| (format!("{network}.{name}"), tensor.shallow_clone())).collect()
    };
    networks.flat_map(named).collect()
}

/// All parameters of a network as one group.
pub(super) fn group(name: &str, learning_rate: f64, parameters: &Parameters) -> ParamGroup {
    let parameters = parameters.iter().map(|(p, tensor)| (format!("{name}.{p}"), tensor.shallow_clone()));
    ParamGroup { name: name.to_string(), learning_rate, parameters: parameters.collect() }
}

impl Trainable for Full {
    fn param_groups(&self, model: &StableDiffusion) -> Vec<ParamGroup> {
        let trained = all_parameters(model).into_iter().filter(|(_, parameter)| parameter.requires_grad());
        self.rates.groups(trained.collect())
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
        match self.format {
            ModelFormat::SingleFile => model.save_single_file(&path, Some(kind), metadata)?,
            ModelFormat::Diffusers => model.save_folder(&path, Some(kind), metadata)?,
        }
        Ok(vec![path])
    }

    fn product_names(&self, stem: &str) -> Vec<String> {
        vec![self.format.file_name(stem)]
    }
}
