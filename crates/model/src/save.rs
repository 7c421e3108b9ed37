//! A model as a diffusers folder or as one single file.

use crate::error::Result;
use crate::kinds::dtype_of;
use crate::model_configs::ModelConfigs;
use crate::parameters::Parameters;
use crate::stable_diffusion::{Frozen, StableDiffusion};
use crate::text_encoder::TextEncoderConfig;
use sdtrain_state_dict::{
    FromReader, PipelineConfigs, PipelineWeights, Reader, TensorInfo, TensorSource, to_ldm, to_ldm_vae,
    write_diffusers_folder, write_network_folder, write_source,
};
use sdtrain_tokenizer::{Tokenizer, reads_like_clip};
use std::borrow::Cow;
use std::collections::BTreeMap;
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
            text_encoders: self.text_encoders.iter().map(|encoder| encoder.network.config().clone()).collect(),
            scheduler: self.scheduler.clone(),
            zeros_for_empty_prompt: self.zeros_for_empty_prompt,
        }
    }

    /// The side of the square pictures that the model was made for, in pixels, where its configurations say it.
    pub fn resolution(&self) -> Option<u32> {
        self.pipeline_configs().resolution()
    }

    /// UNet, VAE and text encoders as files hold them.
    fn readers(&self, kind: Option<Kind>) -> Result<(TensorReader, TensorReader, Vec<TensorReader>)> {
        self.ensure_loaded(Frozen::Vae)?;
        self.ensure_loaded(Frozen::TextEncoder)?;
        let [unet, vae] = [self.unet.parameters(), self.vae.parameters()].map(|own| TensorReader::of(own, kind));
        let of_text = self.text_encoders.iter().map(|encoder| TensorReader::of(encoder.network.parameters(), kind));
        Ok((unet, vae, of_text.collect()))
    }

    /// Writes one `.safetensors` file with the original (LDM) names, in `kind` or as kept. `metadata` joins the header.
    /// Models that differ from their family in sizes, noise schedule or words carry their configurations and tokenizer in it, too.
    pub fn save_single_file(&self, path: &Path, kind: Option<Kind>, metadata: &BTreeMap<String, String>) -> Result<()> {
        let (unet, vae, text_encoders) = self.readers(kind)?;
        let (mut metadata, configs) = (metadata.clone(), self.pipeline_configs());
        if let Some((key, prediction)) = configs.prediction_metadata(self.family) {
            metadata.entry(key).or_insert(prediction);
        }
        if !self.configs().is_plain(self.family) || !reads_like_clip(self.tokenizer().as_ref()) {
            metadata.extend(configs.to_metadata(&self.tokenizer().files()));
        }
        let text_encoders: Vec<&dyn Reader> = text_encoders.iter().map(|reader| reader as &dyn Reader).collect();
        let joined = to_ldm(self.family, &unet, &vae, &text_encoders)?;
        Ok(write_source(path, &FromReader(&joined), &metadata)?)
    }

    fn pipeline_configs(&self) -> PipelineConfigs {
        let configs = self.configs();
        PipelineConfigs {
            unet: configs.unet.to_json(),
            vae: configs.vae.to_json(),
            text_encoders: configs.text_encoders.iter().map(TextEncoderConfig::to_json).collect(),
            scheduler: serde_json::from_str(&configs.scheduler.to_json()).expect("it was written as JSON"),
            zeros_for_empty_prompt: configs.zeros_for_empty_prompt,
        }
    }

    /// Writes a diffusers folder that `from_pretrained` of the family's pipeline loads (see [`write_diffusers_folder`]).
    /// `metadata` joins the headers of the weights.
    pub fn save_folder(&self, folder: &Path, kind: Option<Kind>, metadata: &BTreeMap<String, String>) -> Result<()> {
        let (unet, vae, text_encoders) = self.readers(kind)?;
        let of_text = text_encoders.iter().map(|reader| reader as &dyn TensorSource);
        let weights = PipelineWeights { unet: &unet, vae: &vae, text_encoders: of_text.collect() };
        let tokenizers: Vec<_> = self.text_encoders.iter().map(|encoder| encoder.tokenizer.files()).collect();
        let configs = self.pipeline_configs();
        Ok(write_diffusers_folder(folder, self.family, &configs, &tokenizers, &weights, metadata)?)
    }

    /// Writes the VAE alone into a folder that `AutoencoderKL.from_pretrained` loads.
    pub fn save_vae_folder(
        &self,
        folder: &Path,
        kind: Option<Kind>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        let (_, vae, _) = self.readers(kind)?;
        Ok(write_network_folder(folder, &self.vae.config().to_json(), &vae, metadata)?)
    }

    /// Writes the VAE alone into one `.safetensors` file with the original (LDM) names, without a prefix, as VAEs are passed
    /// around. Such a file carries no configuration: readers take SD1's, or the model's that it joins.
    pub fn save_vae_file(&self, path: &Path, kind: Option<Kind>, metadata: &BTreeMap<String, String>) -> Result<()> {
        let (_, vae, _) = self.readers(kind)?;
        let renamed = to_ldm_vae(&vae)?;
        Ok(write_source(path, &FromReader(&renamed), metadata)?)
    }
}
