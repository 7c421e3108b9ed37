//! `[full]`: which of the model's own weights are trained.

use crate::matches_pattern;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of the model's own weights are trained, and how the result is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FullConfig {
    /// Train the UNet.
    pub train_unet: bool,

    /// Train the text encoder, or both of a model that has two; `freeze = ["text_encoder_2.*"]` leaves the second alone.
    pub train_text_encoder: bool,

    /// Which parameters are trained, by their name in diffusers behind `unet.`, `text_encoder.` or `text_encoder_2.`; `*`
    /// stands for any text. Of the networks that are trained, a parameter is when one pattern matches its whole name:
    /// `["unet.*.attn2.*"]` trains cross-attention alone.
    pub targets: Vec<String>,

    /// Which parameters stay frozen, as in `targets`, which it wins over: `["unet.down_blocks.*", "*.norm*"]`.
    pub freeze: Vec<String>,

    /// Learning rate of the UNet. Absent: `optimizer.learning_rate`. Its blocks may have their own: see `[blocks]`.
    pub unet_learning_rate: Option<f64>,

    /// Learning rate of the text encoder. Absent: `optimizer.learning_rate`.
    pub text_encoder_learning_rate: Option<f64>,

    /// Learning rate of the second text encoder, where the model has two (SDXL). Absent: `text_encoder_learning_rate`.
    pub text_encoder_2_learning_rate: Option<f64>,

    /// How the product is saved, also of `method = "vae"`.
    pub format: ModelFormat,
}

impl Default for FullConfig {
    fn default() -> Self {
        FullConfig {
            train_unet: true,
            train_text_encoder: false,
            targets: vec!["*".to_owned()],
            freeze: Vec::new(),
            unet_learning_rate: None,
            text_encoder_learning_rate: None,
            text_encoder_2_learning_rate: None,
            format: ModelFormat::SingleFile,
        }
    }
}

impl FullConfig {
    /// Whether the parameter `name` (diffusers', behind `unet.` or `text_encoder.`) is trained.
    pub fn trains(&self, name: &str) -> bool {
        let is_in = |patterns: &[String]| patterns.iter().any(|pattern| matches_pattern(pattern, name));
        let network = match name.starts_with("unet.") {
            true => self.train_unet,
            false => self.train_text_encoder,
        };
        network && is_in(&self.targets) && !is_in(&self.freeze)
    }
}

/// How a whole model is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelFormat {
    /// One `.safetensors` file with the original Stable Diffusion names.
    SingleFile,
    /// A diffusers folder.
    Diffusers,
}

impl ModelFormat {
    /// What a product called `stem` is called in its folder.
    pub fn file_name(self, stem: &str) -> String {
        match self {
            ModelFormat::SingleFile => format!("{stem}.safetensors"),
            ModelFormat::Diffusers => stem.to_owned(),
        }
    }
}
