//! Adapters of the LoRA family beside frozen networks.

use super::Trainable;
use crate::error::{Error, Result};
use sdtrain_adapter::{Form, Lora, LoraFile, Networks, kohya_metadata};
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{LoraConfig, LoraFormat};
use sdtrain_state_dict::SafetensorsFile;
use sdtrain_state_dict::maps::lora_peft::Part;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Kind;

/// A LoRA in training.
pub struct LoraTrainable {
    lora: Lora,
    config: LoraConfig,
    learning_rate: f64,
}

impl LoraTrainable {
    /// Makes the adapters (or reads `lora.initial`) and attaches them.
    pub fn new(config: &LoraConfig, learning_rate: f64, seed: u64, model: &StableDiffusion) -> Result<LoraTrainable> {
        let networks = Networks::of(model);
        let lora = match &config.initial {
            Some(path) => LoraFile::read(&SafetensorsFile::open(path)?, &networks)?.into_lora(&networks)?,
            None => Lora::new(config, seed, &networks)?,
        };
        if let Some(path) = &config.initial {
            check_initial(path, config, &lora)?;
        }
        // Better now than after the steps.
        for form in forms(config.format) {
            lora.check_form(*form)?;
        }
        lora.set_dropout(config, seed);
        lora.attach(&networks);
        for (_, parameter) in [Part::Unet, Part::TextEncoder].into_iter().flat_map(|part| lora.parameters(part)) {
            let _ = parameter.set_requires_grad(true);
        }
        Ok(LoraTrainable { lora, config: config.clone(), learning_rate })
    }
}

/// The forms of the product's files.
fn forms(format: LoraFormat) -> &'static [Form] {
    match format {
        LoraFormat::Kohya => &[Form::Kohya],
        LoraFormat::Peft => &[Form::Peft],
        LoraFormat::Both => &[Form::Kohya, Form::Peft],
    }
}

/// A file has its own kind, layers and ranks: where the configuration says others, somebody is mistaken.
fn check_initial(path: &Path, config: &LoraConfig, lora: &Lora) -> Result<()> {
    let wrong = |message: String, hint: String| Err(Error::Config { message, hint: Some(hint) });
    for (part, trained) in [(Part::Unet, config.train_unet), (Part::TextEncoder, config.train_text_encoder)] {
        if !trained && lora.modules().iter().any(|module| module.part == part) {
            let message = format!("`lora.initial`: `{}` also adapts the {part}, which is not trained", path.display());
            return wrong(message, format!("set `lora.train_{part} = true`"));
        }
    }
    if let Some(other) = lora.modules().iter().find(|module| module.kind != config.kind) {
        let (found, wanted) = (other.kind.name(), config.kind.name());
        let message =
            format!("`lora.initial`: `{}` is of kind `{found}`, but `lora.kind` is `{wanted}`", path.display());
        return wrong(message, format!("set `lora.kind = \"{found}\"`"));
    }
    // Those of convolutions may differ, and kinds may have none.
    let ranks: std::collections::BTreeSet<i64> = lora
        .modules()
        .iter()
        .filter(|module| module.layer.site().shape().get(2).is_none_or(|&kernel| kernel == 1))
        .filter_map(|module| module.rank())
        .collect();
    if config.kind.has_rank() && ranks.len() == 1 && !ranks.contains(&i64::from(config.rank)) {
        let rank = ranks.first().copied().unwrap_or_default();
        let message =
            format!("`lora.initial`: `{}` has rank {rank}, but `lora.rank` is {}", path.display(), config.rank);
        return wrong(message, format!("set `lora.rank = {rank}`"));
    }
    Ok(())
}

impl Trainable for LoraTrainable {
    fn param_groups(&self, _model: &StableDiffusion) -> Vec<ParamGroup> {
        let rates = [
            (Part::Unet, self.learning_rate),
            (Part::TextEncoder, self.config.text_encoder_learning_rate.unwrap_or(self.learning_rate)),
        ];
        let group = |(part, learning_rate): (Part, f64)| ParamGroup {
            name: part.folder().to_string(),
            learning_rate,
            parameters: self.lora.parameters(part),
        };
        rates.into_iter().map(group).filter(|group| !group.parameters.is_empty()).collect()
    }

    fn begin_pass(&self, number: u64) {
        self.lora.set_pass(Some(number));
    }

    fn end_pass(&self) {
        self.lora.set_pass(None);
    }

    fn after_optimizer_step(&self) -> Result<()> {
        match self.config.max_weight_norm {
            Some(largest) => Ok(self.lora.cap_norms(largest)?),
            None => Ok(()),
        }
    }

    fn save(
        &self,
        _model: &StableDiffusion,
        folder: &Path,
        stem: &str,
        kind: Kind,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<PathBuf>> {
        let mut metadata = metadata.clone();
        metadata.extend(kohya_metadata(&self.lora, &self.config));
        let paths: Vec<PathBuf> = self.product_names(stem).iter().map(|name| folder.join(name)).collect();
        for (path, form) in paths.iter().zip(forms(self.config.format)) {
            match form {
                Form::Kohya => self.lora.save_kohya(path, kind, &metadata)?,
                Form::Peft => self.lora.save_peft(path, kind, &metadata)?,
            }
        }
        Ok(paths)
    }

    fn product_names(&self, stem: &str) -> Vec<String> {
        let main = format!("{stem}.safetensors");
        match self.config.format {
            LoraFormat::Both => vec![main, format!("{stem}-peft.safetensors")],
            _ => vec![main],
        }
    }

    fn adapter_kind(&self) -> Option<&'static str> {
        Some("lora")
    }
}
