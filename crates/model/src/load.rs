//! A diffusers folder, a single file or the built-in base → [`StableDiffusion`].

use crate::builder::{Builder, Source};
use crate::builtin;
use crate::error::{Error, Result};
use crate::stable_diffusion::StableDiffusion;
use crate::text_encoder::{ClipTextConfig, ClipTextModel};
use crate::unet::{UNet2DConditionModel, UNetConfig};
use crate::vae::{AutoencoderKL, VaeConfig};
use sdtrain_diffusion::SchedulerConfig;
use sdtrain_state_dict::{Reader, Renamed, SafetensorsFile, ldm_single_file, maps, open_component, recognise};
use sdtrain_tokenizer::ClipTokenizer;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Device, Kind};

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where its tensors go.
    pub device: Device,
    /// Dtype of activations and of parameters that are not trained.
    pub compute: Kind,
    /// The UNet's parameters are kept in f32.
    pub unet_in_f32: bool,
    /// The text encoder's parameters are kept in f32.
    pub text_encoder_in_f32: bool,
    /// The VAE's parameters are kept in f32.
    pub vae_in_f32: bool,
    /// Weights are drawn from this seed; only the folder's configurations, scheduler and tokenizer are read.
    pub random: Option<u64>,
    /// Which variant of the weight files to read, e.g. `fp16`.
    pub variant: Option<String>,
    /// Another VAE than the model's own.
    pub vae: Option<PathBuf>,
}

impl LoadOptions {
    /// Everything in `compute` on `device`, as for sampling.
    pub fn new(device: Device, compute: Kind) -> LoadOptions {
        LoadOptions {
            device,
            compute,
            unet_in_f32: false,
            text_encoder_in_f32: false,
            vae_in_f32: false,
            random: None,
            variant: None,
            vae: None,
        }
    }
}

/// The configurations of a model: enough to build it, without weights.
#[derive(Debug, Clone)]
pub struct ModelConfigs {
    /// The UNet's.
    pub unet: UNetConfig,
    /// The VAE's.
    pub vae: VaeConfig,
    /// The text encoder's.
    pub text_encoder: ClipTextConfig,
    /// The scheduler's.
    pub scheduler: SchedulerConfig,
}

impl ModelConfigs {
    /// Stable Diffusion 1.x, for single files that carry no configuration
    /// (<https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5>).
    pub fn sd1() -> ModelConfigs {
        let unet = UNetConfig { sample_size: json!(64), cross_attention_dim: 768, ..UNetConfig::default() };
        let vae = VaeConfig {
            down_block_types: vec!["DownEncoderBlock2D".into(); 4],
            up_block_types: vec!["UpDecoderBlock2D".into(); 4],
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            sample_size: json!(512),
            ..VaeConfig::default()
        };
        // bos, eos and pad are CLIP's legacy values, which transformers treats specially; released files have them.
        let text_encoder = ClipTextConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_attention_heads: 12,
            projection_dim: 768,
            bos_token_id: 0,
            eos_token_id: 2,
            ..ClipTextConfig::default()
        };
        ModelConfigs { unet, vae, text_encoder, scheduler: SchedulerConfig::stable_diffusion() }
    }
}

/// Loads the model at `path`: `builtin:NAME`, a diffusers folder or a `.safetensors` file.
pub fn load(path: &str, options: &LoadOptions) -> Result<StableDiffusion> {
    if let Some(name) = path.strip_prefix("builtin:") {
        return from_single_file(Arc::new(builtin::open(name)?), options);
    }
    let folder = Path::new(path);
    if folder.is_dir() {
        return from_folder(folder, options);
    }
    from_single_file(Arc::new(SafetensorsFile::open(folder)?), options)
}

fn from_folder(folder: &Path, options: &LoadOptions) -> Result<StableDiffusion> {
    let index = read_json(&folder.join("model_index.json"))?;
    check_pipeline(folder, &index)?;
    let configs = ModelConfigs {
        unet: UNetConfig::from_json(&read_json(&folder.join("unet/config.json"))?)?,
        vae: VaeConfig::from_json(&read_json(&folder.join("vae/config.json"))?)?,
        text_encoder: ClipTextConfig::from_json(&read_json(&folder.join("text_encoder/config.json"))?)?,
        scheduler: SchedulerConfig::from_file(&folder.join("scheduler/scheduler_config.json"))?,
    };
    let tokenizer = ClipTokenizer::from_folder(&folder.join("tokenizer"))?;
    if options.random.is_some() {
        return assemble(folder, configs, tokenizer, Weights::Random, options);
    }
    let open = |part: &str, stem: &str| -> Result<Box<dyn Reader>> {
        let stem = match &options.variant {
            Some(variant) => format!("{stem}.{variant}"),
            None => stem.to_string(),
        };
        Ok(open_component(&folder.join(part), &stem)?)
    };
    let unet = open("unet", "diffusion_pytorch_model")?;
    let vae = with_current_names(open("vae", "diffusion_pytorch_model")?)?;
    let text_encoder = with_text_model_prefix(open("text_encoder", "model")?)?;
    assemble(folder, configs, tokenizer, Weights::Files { unet: &unet, vae: &vae, text_encoder: &text_encoder }, options)
}

fn from_single_file(file: Arc<dyn Reader>, options: &LoadOptions) -> Result<StableDiffusion> {
    let path = file.path().to_path_buf();
    let kind = recognise(file.as_ref());
    if kind.family() != Some("sd1") {
        return Err(Error::Family(format!("`{}` is a {kind}; only models of the SD1 family are supported", path.display())));
    }
    let metadata = file.metadata().clone();
    let (configs, tokenizer) = match EmbeddedConfigs::find(&metadata)? {
        Some(embedded) => embedded,
        None => (ModelConfigs::sd1(), ClipTokenizer::builtin()),
    };
    if options.random.is_some() {
        return assemble(&path, configs, tokenizer, Weights::Random, options);
    }
    let parts = ldm_single_file(file)?;
    let lacks = |part: &str| Error::Family(format!("`{}` holds no {part}", path.display()));
    let vae = parts.vae.as_ref().ok_or_else(|| lacks("VAE"))?;
    let text_encoder = parts.text_encoder.as_ref().ok_or_else(|| lacks("text encoder"))?;
    assemble(&path, configs, tokenizer, Weights::Files { unet: &parts.unet, vae, text_encoder }, options)
}

/// Configurations and tokenizer inside the metadata of single files that this program wrote for models of other sizes
/// than SD1's, where a reader could not know them.
pub(crate) struct EmbeddedConfigs;

impl EmbeddedConfigs {
    pub const UNET: &str = "sdtrain.unet";
    pub const VAE: &str = "sdtrain.vae";
    pub const TEXT_ENCODER: &str = "sdtrain.text_encoder";
    pub const SCHEDULER: &str = "sdtrain.scheduler";
    pub const VOCAB: &str = "sdtrain.tokenizer.vocab";
    pub const MERGES: &str = "sdtrain.tokenizer.merges";

    fn find(metadata: &std::collections::BTreeMap<String, String>) -> Result<Option<(ModelConfigs, ClipTokenizer)>> {
        let Some(unet) = metadata.get(Self::UNET) else { return Ok(None) };
        let text = |key: &str| {
            metadata.get(key).ok_or_else(|| Error::Config(format!("the file's metadata has `{}` but no `{key}`", Self::UNET)))
        };
        let parsed = |key: &str, text: &str| -> Result<Value> {
            serde_json::from_str(text).map_err(|e| Error::Config(format!("metadata `{key}`: {e}")))
        };
        let configs = ModelConfigs {
            unet: UNetConfig::from_json(&parsed(Self::UNET, unet)?)?,
            vae: VaeConfig::from_json(&parsed(Self::VAE, text(Self::VAE)?)?)?,
            text_encoder: ClipTextConfig::from_json(&parsed(Self::TEXT_ENCODER, text(Self::TEXT_ENCODER)?)?)?,
            scheduler: SchedulerConfig::from_json(text(Self::SCHEDULER)?)?,
        };
        let window = configs.text_encoder.max_position_embeddings as usize;
        let (vocab, merges) = (text(Self::VOCAB)?.as_bytes(), text(Self::MERGES)?.as_bytes());
        let tokenizer = ClipTokenizer::from_parts(vocab, merges, "<|endoftext|>", window)?;
        Ok(Some((configs, tokenizer)))
    }
}

enum Weights<'a> {
    Random,
    Files { unet: &'a dyn Reader, vae: &'a dyn Reader, text_encoder: &'a dyn Reader },
}

fn assemble(
    path: &Path,
    configs: ModelConfigs,
    tokenizer: ClipTokenizer,
    weights: Weights,
    options: &LoadOptions,
) -> Result<StableDiffusion> {
    let seed = options.random.unwrap_or_default();
    let [unet_source, vae_source, text_source] = match weights {
        Weights::Random => [Source::Random(seed); 3],
        Weights::Files { unet, vae, text_encoder } => [unet, vae, text_encoder].map(Source::File),
    };
    let kind = |in_f32: bool| if in_f32 { Kind::Float } else { options.compute };
    // SD's VAE overflows in fp16 (diffusers: force_upcast), so it is then kept in f32.
    let vae_in_f32 = options.vae_in_f32 || (configs.vae.force_upcast && options.compute == Kind::Half);
    let build = |source, in_f32| Builder::new(source, kind(in_f32), options.device);
    let vae = match &options.vae {
        Some(other) => load_vae(other, &configs.vae, kind(vae_in_f32), options.device)?,
        None => AutoencoderKL::new(build(vae_source, vae_in_f32), &configs.vae)?,
    };
    Ok(StableDiffusion {
        path: path.to_path_buf(),
        tokenizer,
        text_encoder: ClipTextModel::new(build(text_source, options.text_encoder_in_f32), &configs.text_encoder)?,
        vae,
        unet: UNet2DConditionModel::new(build(unet_source, options.unet_in_f32), &configs.unet)?,
        scheduler: configs.scheduler,
        device: options.device,
        compute: options.compute,
    })
}

/// A VAE by itself: a diffusers folder (its `config.json` counts), or a file in either naming (`config` counts).
fn load_vae(path: &Path, config: &VaeConfig, kind: Kind, device: Device) -> Result<AutoencoderKL> {
    if path.is_dir() {
        let config = VaeConfig::from_json(&read_json(&path.join("config.json"))?)?;
        let reader = with_current_names(open_component(path, "diffusion_pytorch_model")?)?;
        return AutoencoderKL::new(Builder::new(Source::File(&reader), kind, device), &config);
    }
    let file: Box<dyn Reader> = Box::new(SafetensorsFile::open(path)?);
    let levels = maps::vae::levels(file.names());
    let is_diffusers = file.names().iter().any(|name| name.contains("down_blocks."));
    let reader = Renamed::new(file, |name, info| {
        let name = name.strip_prefix("first_stage_model.").unwrap_or(name);
        let name = if is_diffusers { maps::vae::current_name(name) } else { maps::vae::ldm_to_vae(name, levels)? };
        let shape = maps::vae::shape_in_diffusers(&name, &info.shape);
        Some((name, shape))
    })?;
    AutoencoderKL::new(Builder::new(Source::File(&reader), kind, device), config)
}

fn with_current_names(reader: Box<dyn Reader>) -> Result<Renamed<Box<dyn Reader>>> {
    Ok(Renamed::new(reader, |name, info| {
        let name = maps::vae::current_name(name);
        let shape = maps::vae::shape_in_diffusers(&name, &info.shape);
        Some((name, shape))
    })?)
}

fn with_text_model_prefix(reader: Box<dyn Reader>) -> Result<Renamed<Box<dyn Reader>>> {
    Ok(Renamed::new(reader, |name, info| Some((maps::clip::canonical_name(name)?, info.shape.clone())))?)
}

fn check_pipeline(folder: &Path, index: &Value) -> Result<()> {
    let class = index["_class_name"].as_str().unwrap_or_default();
    let text_encoder = index["text_encoder"][1].as_str().unwrap_or("CLIPTextModel");
    if class.starts_with("StableDiffusion") && !class.contains("XL") && text_encoder == "CLIPTextModel" {
        return Ok(());
    }
    Err(Error::Family(format!(
        "`{}` is a `{class}` with a `{text_encoder}`; only models of the SD1 family are supported",
        folder.display()
    )))
}

/// The parsed JSON file at `path`.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let failed = |reason: String| Error::File { path: path.to_path_buf(), reason };
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}
