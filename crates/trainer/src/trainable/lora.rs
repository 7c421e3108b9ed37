//! Adapters of the LoRA family beside frozen networks.

use super::{GroupRates, Trainable};
use crate::error::{Error, Result};
use crate::setup::local_file;
use sdtrain_adapter::{Form, Lora, LoraFile, LoraModule, Networks, kohya_metadata};
use sdtrain_evaluate::prompt_reading;
use sdtrain_files::say;
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{FileAdapter, LoraConfig, LoraFormat, TrainConfig};
use sdtrain_state_dict::maps::lora_peft::Part;
use sdtrain_state_dict::open_file;
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
    /// Makes the adapters (or reads `lora.initial` and adds what it lacks) and attaches them. Blocks whose rate is 0 and layers that
    /// nothing depends on get none;
    /// those of a file stay as they are.
    pub fn new(config: &TrainConfig, model: &StableDiffusion) -> Result<LoraTrainable> {
        let networks = Networks::of(model);
        let rates = GroupRates::new(config, model)?;
        let reading = prompt_reading(&config.model);
        let learns = |layer: &str| !rates.freezes(layer) && !model.is_never_asked(layer, &reading);
        let (seed, config) = (config.seed, &config.lora);
        let lora = match &config.initial {
            Some(path) => continued(path, config, seed, &networks, &learns)?,
            None => {
                let mut lora = Lora::new(config, seed, &networks)?;
                lora.retain(|module| learns(&module.full_path()));
                lora
            }
        };
        // Better now than after the steps.
        for form in forms(config.format) {
            lora.check_form(*form)?;
        }
        lora.set_dropout(config, seed);
        lora.attach(&networks);
        let mut trained = 0;
        for (name, parameter) in Part::ALL.into_iter().flat_map(|part| lora.parameters(part)) {
            let is_trained = learns(&name);
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

/// The adapters of the file at `path`, and new ones where it lacks some that `config` names; what there is to say goes to the
/// console.
fn continued(
    path: &Path,
    config: &LoraConfig,
    seed: u64,
    networks: &Networks,
    learns: &dyn Fn(&str) -> bool,
) -> Result<Lora> {
    let mut lora = LoraFile::read(&open_file(local_file(path)?)?, networks)?.into_lora(networks)?;
    let of_file: Vec<FileAdapter> = lora.modules().iter().map(LoraModule::described).collect();
    let added = lora.add_missing(config, seed, networks, learns)?;
    let notes = config
        .read_initial(&path.display().to_string(), &of_file, added)
        .map_err(|(message, hint)| Error::Config { message, hint: Some(hint) })?;
    for note in notes {
        say!("note: `lora.initial`: {note}");
    }
    Ok(lora)
}

impl Trainable for LoraTrainable {
    fn param_groups(&self, _model: &StableDiffusion) -> Vec<ParamGroup> {
        let parameters = Part::ALL.into_iter().flat_map(|part| self.lora.parameters(part));
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
