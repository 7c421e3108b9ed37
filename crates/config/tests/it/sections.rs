//! A small configuration with one key of each kind.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use sdtrain_config::Document;
use serde::{Deserialize, Serialize};

/// A small configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["model"]))]
pub struct Config {
    /// Names the outputs.
    pub name: String,
    /// What is trained.
    pub method: Method,
    /// The model.
    pub model: Model,
    /// The images.
    pub data: Data,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// How long.
    pub train: Train,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A LoRA.
    #[default]
    Lora,
    /// The whole model.
    Full,
}

/// The model section.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["path"]))]
pub struct Model {
    /// Where it is. A folder or a file.
    pub path: String,
    /// Another autoencoder.
    pub vae: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Pixels.
    pub resolution: Resolution,
    /// Folders.
    pub subsets: Vec<Subset>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Resolution {
    Square(u32),
    Size([u32; 2]),
}

impl Default for Resolution {
    fn default() -> Self {
        Resolution::Square(512)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["path"]))]
pub struct Subset {
    /// The folder.
    pub path: String,
    /// Times an epoch.
    pub repeats: u32,
    /// Reorder captions.
    pub shuffle_caption: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Optimizer {
    /// Adam with weight decay.
    #[serde(rename = "adamw")]
    AdamW(AdamW),
    /// Gradient descent.
    Sgd(Sgd),
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer::AdamW(AdamW::default())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// Size of a step.
    pub learning_rate: f64,
    /// Means.
    pub betas: [f64; 2],
    /// Pull to zero.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { learning_rate: 1e-4, betas: [0.9, 0.999], weight_decay: 0.01 }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sgd {
    /// Size of a step.
    pub learning_rate: f64,
    /// Speed that is kept.
    pub momentum: f64,
}

/// How long to train.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Length in steps,
    /// not epochs.
    ///
    /// Second paragraph.
    #[schemars(extend("x-other-names" = ["max_train_steps"]))]
    pub max_steps: Option<u64>,
    /// Prompts.
    pub prompts: Vec<String>,
}

/// The messages for a text that does not fit; empty when it does.
pub fn messages(text: &str) -> String {
    match Document::from_str(text, Path::new("run.toml")).and_then(|document| document.parse::<Config>()) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string(),
    }
}

pub fn parsed(text: &str) -> Config {
    Document::from_str(text, Path::new("run.toml"))
        .and_then(|document| document.parse())
        .unwrap_or_else(|problems| panic!("{problems}"))
}
