//! A model as a diffusers folder or as one single file.

use crate::error::{Error, Result};
use crate::kinds::dtype_of;
use crate::load::EmbeddedConfigs;
use crate::load::ModelConfigs;
use crate::parameters::Parameters;
use crate::stable_diffusion::StableDiffusion;
use sdtrain_state_dict::{FromReader, Reader, TensorInfo, TensorSource, to_ldm, write_source};
use sdtrain_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// Named tensors in memory as a reader and source of a file; each is converted when it is written.
pub struct TensorReader {
    tensors: BTreeMap<String, (Tensor, TensorInfo)>,
    kind: Option<Kind>,
    metadata: BTreeMap<String, String>,
}

impl TensorReader {
    /// The tensors under their names; with `kind`, floating-point ones are converted to it.
    pub fn new<'t>(tensors: impl IntoIterator<Item = (String, &'t Tensor)>, kind: Option<Kind>) -> TensorReader {
        let entry = |(name, tensor): (String, &Tensor)| {
            let kind = kind.filter(|_| tensor.is_floating_point()).unwrap_or(tensor.kind());
            let dtype = dtype_of(kind).expect("a parameter has a dtype that files have");
            let shape = tensor.size().iter().map(|&d| d as usize).collect();
            (name, (tensor.shallow_clone(), TensorInfo { dtype, shape }))
        };
        TensorReader { tensors: tensors.into_iter().map(entry).collect(), kind, metadata: BTreeMap::new() }
    }

    /// All parameters of a network.
    pub fn of(parameters: &Parameters, kind: Option<Kind>) -> TensorReader {
        TensorReader::new(parameters.iter().map(|(name, tensor)| (name.to_string(), tensor)), kind)
    }
}

impl Reader for TensorReader {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|(_, info)| info)
    }

    fn bytes(&self, name: &str) -> sdtrain_state_dict::Result<Cow<'_, [u8]>> {
        let (tensor, _) = self.tensors.get(name).expect("only listed tensors are asked for");
        let kind = self.kind.filter(|_| tensor.is_floating_point()).unwrap_or(tensor.kind());
        let converted = sdtrain_torch::catch(|| tch::no_grad(|| tensor.to_kind(kind)));
        let bytes = converted.and_then(|tensor| sdtrain_torch::tensor_to_bytes(&tensor));
        bytes.map(Cow::Owned).map_err(|error| sdtrain_state_dict::Error::BrokenTensor {
            path: PathBuf::from("memory"),
            tensor: name.to_string(),
            reason: error.to_string(),
        })
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        Path::new("memory")
    }
}

impl TensorSource for TensorReader {
    fn list(&self) -> Vec<(String, TensorInfo)> {
        FromReader(self).list()
    }

    fn tensor_bytes(&self, name: &str) -> sdtrain_state_dict::Result<Cow<'_, [u8]>> {
        self.bytes(name)
    }
}

impl StableDiffusion {
    /// The configurations it was built from.
    pub fn configs(&self) -> ModelConfigs {
        ModelConfigs {
            unet: self.unet.config().clone(),
            vae: self.vae.config().clone(),
            text_encoder: self.text_encoder.config().clone(),
            scheduler: self.scheduler.clone(),
        }
    }

    /// Writes one `.safetensors` file with the original (LDM) names, in `kind` or as kept. `metadata` joins the header.
    /// Models that differ from SD1 in sizes or noise schedule carry their configurations and tokenizer in it, too.
    pub fn save_single_file(&self, path: &Path, kind: Option<Kind>, metadata: &BTreeMap<String, String>) -> Result<()> {
        let [unet, vae, text_encoder] = [self.unet.parameters(), self.vae.parameters(), self.text_encoder.parameters()]
            .map(|parameters| TensorReader::of(parameters, kind));
        let mut metadata = metadata.clone();
        if !self.configs().is_sd1() {
            metadata.extend(self.embedded_configs()?);
        }
        let joined = to_ldm(&unet, &vae, &text_encoder)?;
        Ok(write_source(path, &FromReader(&joined), &metadata)?)
    }

    fn embedded_configs(&self) -> Result<BTreeMap<String, String>> {
        let configs = self.configs();
        let mut entries = BTreeMap::from([
            (EmbeddedConfigs::UNET.to_string(), configs.unet.to_json().to_string()),
            (EmbeddedConfigs::VAE.to_string(), configs.vae.to_json().to_string()),
            (EmbeddedConfigs::TEXT_ENCODER.to_string(), configs.text_encoder.to_json().to_string()),
            (EmbeddedConfigs::SCHEDULER.to_string(), configs.scheduler.to_json()),
        ]);
        for (name, content) in self.tokenizer.files() {
            let key = match name.as_str() {
                "vocab.json" => EmbeddedConfigs::VOCAB,
                "merges.txt" => EmbeddedConfigs::MERGES,
                _ => continue,
            };
            let text = String::from_utf8(content)
                .map_err(|_| Error::Config(format!("the tokenizer's {name} is not UTF-8")))?;
            entries.insert(key.to_string(), text);
        }
        Ok(entries)
    }

    /// Writes a diffusers folder that `StableDiffusionPipeline.from_pretrained` loads. Files appear in a sibling folder
    /// first, which takes its place when it is complete.
    pub fn save_folder(&self, folder: &Path, kind: Option<Kind>) -> Result<()> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |error: std::io::Error| Error::File { path, reason: error.to_string() }
        };
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let staging = folder.with_file_name(format!(".{name}.partial"));
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(failed(&staging))?;
        }
        let write_json = |file: &str, json: &Value| -> Result<()> {
            let path = staging.join(file);
            let text = serde_json::to_string_pretty(json).expect("plain data is JSON") + "\n";
            fs::write(&path, text).map_err(failed(&path))
        };
        for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
            let path = staging.join(part);
            fs::create_dir_all(&path).map_err(failed(&path))?;
        }
        let configs = self.configs();
        let scheduler: Value = serde_json::from_str(&configs.scheduler.to_json()).expect("it was written as JSON");
        let class = scheduler["_class_name"].as_str().unwrap_or("PNDMScheduler").to_string();
        write_json(
            "model_index.json",
            &json!({
                "_class_name": "StableDiffusionPipeline",
                "_diffusers_version": "0.42.0",
                "feature_extractor": [null, null],
                "requires_safety_checker": false,
                "safety_checker": [null, null],
                "scheduler": ["diffusers", class],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
            }),
        )?;
        write_json("unet/config.json", &configs.unet.to_json())?;
        write_json("vae/config.json", &configs.vae.to_json())?;
        write_json("text_encoder/config.json", &configs.text_encoder.to_json())?;
        write_json("scheduler/scheduler_config.json", &scheduler)?;
        for (file, content) in self.tokenizer.files() {
            let path = staging.join("tokenizer").join(file);
            fs::write(&path, content).map_err(failed(&path))?;
        }
        let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        let parts = [
            ("unet/diffusion_pytorch_model.safetensors", self.unet.parameters()),
            ("vae/diffusion_pytorch_model.safetensors", self.vae.parameters()),
            ("text_encoder/model.safetensors", self.text_encoder.parameters()),
        ];
        for (file, parameters) in parts {
            write_source(&staging.join(file), &TensorReader::of(parameters, kind), &metadata)?;
        }
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(failed(folder))?;
        }
        fs::rename(&staging, folder).map_err(failed(folder))
    }
}
