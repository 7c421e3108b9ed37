//! `[full]`: which of the model's own weights are trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of the model's own weights are trained, and how the result is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FullConfig {
    /// Train the UNet.
    pub train_unet: bool,

    /// Train the text encoder.
    pub train_text_encoder: bool,

    /// Learning rate of the text encoder. Absent: `optimizer.learning_rate`.
    pub text_encoder_learning_rate: Option<f64>,

    /// How the product is saved.
    pub format: ModelFormat,
}

impl Default for FullConfig {
    fn default() -> Self {
        FullConfig {
            train_unet: true,
            train_text_encoder: false,
            text_encoder_learning_rate: None,
            format: ModelFormat::SingleFile,
        }
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
