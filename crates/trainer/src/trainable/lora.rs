//! Adapters of the LoRA family beside frozen networks.

use super::{GroupRates, Trainable};
use crate::error::{Error, Result};
use sdtrain_adapter::{Form, Lora, LoraFile, Networks, kohya_metadata};
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{LoraConfig, LoraFormat, TrainConfig};
use sdtrain_state_dict::SafetensorsFile;
use sdtrain_state_dict::maps::lora_peft::Part;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Kind;

/// A LoRA in training.
pub struct LoraTrainable {
    lora: Lora,
    config: LoraConfig,
    rates: GroupRates,
}

impl LoraTrainable {
    /// Makes the adapters (or reads `lora.initial`) and attaches them. Blocks whose rate is 0 get none; those of a file stay as
    /// they are.
    pub fn new(config: &TrainConfig, model: &StableDiffusion) -> Result<LoraTrainable> {
        let networks = Networks::of(model);
        let rates = GroupRates::new(config, model)?;
        let (seed, config) = (config.seed, &config.lora);
        let mut lora = match &config.initial {
            Some(path) => LoraFile::read(&SafetensorsFile::open(path)?, &networks)?.into_lora(&networks)?,
            None => Lora::new(config, seed, &networks)?,
        };
        match &config.initial {
            Some(path) => check_initial(path, config, &lora)?,
            None => lora.retain(|module| !rates.freezes(&module.full_path())),
        }
        // Better now than after the steps.
        for form in forms(config.format) {
            lora.check_form(*form)?;
        }
        lora.set_dropout(config, seed);
        lora.attach(&networks);
        let mut trained = 0;
        for (name, parameter) in [Part::Unet, Part::TextEncoder].into_iter().flat_map(|part| lora.parameters(part)) {
            let is_trained = !rates.freezes(&name);
            trained += usize::from(is_trained);
            let _ = parameter.set_requires_grad(is_trained);
        }
        if trained == 0 {
            let message = "nothing is trained: `[blocks]` freezes every block that has adapters".into();
            return Err(Error::Config { message, hint: None });
        }
        Ok(LoraTrainable { lora, config: config.clone(), rates })
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
        let parameters = [Part::Unet, Part::TextEncoder].into_iter().flat_map(|part| self.lora.parameters(part));
        self.rates.groups(parameters.filter(|(_, parameter)| parameter.requires_grad()).collect())
    }

    fn weight_norms(&self) -> Result<Vec<(String, f64)>> {
        let norms = self.lora.weight_norms()?;
        let mean = norms.iter().sum::<f64>() / norms.len().max(1) as f64;
        let largest = norms.iter().copied().fold(0.0, f64::max);
        Ok(vec![("weight_norm/average".into(), mean), ("weight_norm/max".into(), largest)])
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
