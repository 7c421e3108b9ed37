//! `[model]`: which model training starts from, and what its files do not say.

use std::path::PathBuf;

use crate::FusedAdapter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The model that training starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["path"]))]
pub struct ModelConfig {
    /// `builtin:poster-tiny` (comes with the program), a diffusers folder, a single `.safetensors` or `.ckpt` file, or
    /// `hf:ORG/REPO`, a diffusers model on the Hugging Face hub, which is fetched where it is not in the cache; `hf:ORG/REPO/FILE` is one
    /// file of it, and `@REVISION` behind either a branch, tag or commit. Relative to the file it is written in.
    #[schemars(extend("x-other-names" = ["pretrained_model_name_or_path", "base_model"]))]
    pub path: String,

    /// Model family. Absent: recognised from the files.
    pub family: Option<Family>,

    /// Take the running mean of the UNet's weights that a single file of its original training has beside them (`model_ema.`), in the
    /// place of these. Off: it is left out.
    pub extract_ema: bool,

    /// Another autoencoder than the model's own: a `.safetensors`, `.pt` or `.ckpt` file, a diffusers folder, or either
    /// on the hub: `hf:ORG/REPO`, `hf:ORG/REPO/vae`, `hf:ORG/REPO/FILE`. Absent: the model's own.
    #[schemars(extend("x-other-names" = ["vae_path", "pretrained_vae_model_name_or_path"]))]
    pub vae: Option<PathBuf>,

    /// Another text encoder than the model's own: a folder with `config.json` and weights as transformers writes them, or a diffusers
    /// folder, whose `text_encoder` and `tokenizer` are taken. Of CLIP's or BERT's kind, with states as wide as the UNet attends to. For
    /// models with one text encoder. Also on the hub: `hf:ORG/REPO`, `hf:ORG/REPO/FOLDER`. Absent: the model's own.
    pub text_encoder: Option<PathBuf>,

    /// The folder of its tokenizer, or one on the hub: `hf:ORG/REPO`, `hf:ORG/REPO/FOLDER`. Absent: that of the folder `text_encoder`,
    /// where there is one, else the model's own.
    pub tokenizer: Option<PathBuf>,

    /// Where the first weights of `text_encoder` come from; drawn from the seed, only its `config.json` is read.
    pub text_encoder_init: Init,

    /// Which variant of a diffusers folder's weight files to read: `"fp16"` reads `*.fp16.safetensors`.
    /// Absent: the files without a variant in their name.
    pub variant: Option<String>,

    /// How many of the text encoder's last layers are skipped, counted as in kohya's scripts and in web interfaces:
    /// 1 uses the last layer, 2 the one before it. Absent: as the model's files say. Typical: 1 for photographs, 2 for drawings.
    pub clip_skip: Option<u32>,

    /// How many tokens of a caption or prompt are read. Longer than what the text encoder reads at once (75 for CLIP), and it is
    /// read in several windows, whose states stand one after the other; a multiple of it, then: 150 or 225. Absent: one window;
    /// what does not fit is cut off.
    pub max_token_length: Option<u32>,

    /// Read weights in captions and prompts, as web interfaces do: `(word)` counts 1.1 times, `[word]` 1/1.1, `(word:1.3)` 1.3
    /// times; `\\(` is the bracket itself. Off: brackets are text.
    #[schemars(extend("x-other-names" = ["weighted_captions"]))]
    pub prompt_weights: bool,

    /// What the model is asked to predict. Absent: as the model's scheduler configuration says.
    pub prediction_type: Option<PredictionType>,

    /// Rescale the noise schedule so that its last timestep is pure noise; then even the overall brightness and colour
    /// of a picture are learned. Wants `prediction_type = "v_prediction"`. Absent: as the model's scheduler configuration says.
    #[schemars(extend("x-other-names" = ["zero_snr", "rescale_betas_zero_snr"]))]
    pub zero_terminal_snr: Option<bool>,

    /// Where the first weights come from.
    pub init: Init,

    /// Adapters that become a part of the model before training, one section each, in this order.
    #[schemars(extend("x-other-names" = ["base_weights"]))]
    pub fuse: Vec<FusedAdapter>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            path: String::new(),
            family: None,
            extract_ema: false,
            vae: None,
            text_encoder: None,
            tokenizer: None,
            text_encoder_init: Init::Pretrained,
            variant: None,
            clip_skip: None,
            max_token_length: None,
            prompt_weights: false,
            prediction_type: None,
            zero_terminal_snr: None,
            init: Init::Pretrained,
            fuse: Vec::new(),
        }
    }
}

/// A model family: the classes of network and how a prompt reaches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Stable Diffusion 1.x and every model of its shape.
    Sd1,
    /// Stable Diffusion 2.x, of the noise or in v-prediction.
    Sd2,
    /// Stable Diffusion XL and every model of its shape.
    Sdxl,
    /// Its refiner, which goes on from a picture.
    SdxlRefiner,
}

impl Family {
    /// The name as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Family::Sd1 => "sd1",
            Family::Sd2 => "sd2",
            Family::Sdxl => "sdxl",
            Family::SdxlRefiner => "sdxl_refiner",
        }
    }
}

/// What the denoiser predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The velocity between image and noise (arXiv:2202.00512).
    VPrediction,
    /// The clean latents.
    Sample,
}

impl PredictionType {
    /// The name as diffusers' scheduler configurations write it.
    pub fn name(self) -> &'static str {
        match self {
            PredictionType::Epsilon => "epsilon",
            PredictionType::VPrediction => "v_prediction",
            PredictionType::Sample => "sample",
        }
    }
}

/// Where the first weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// From the files there.
    Pretrained,
    /// Drawn from the seed: training from scratch. There is a folder of which only the `config.json` files, the scheduler and the
    /// tokenizer are read.
    Random,
}
