//! `[[stages]]`: a training in several runs, as one file writes it; `plan.rs` makes the runs of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A run of its own folder, `outputs/RUN/STAGE`: this file with the keys of the stage on top, which may be any (`[stages.full]`,
/// `[[stages.data.subsets]]`). It begins with the product of the stage before: a model takes the place of `model.path` and of what
/// changes the base (`model.vae`, `model.text_encoder`, `model.fuse` and so on), an autoencoder that of `model.vae`, adapters are trained on
/// as `lora.initial` or, where no LoRA is trained, are fused into the base, words are learned on; what the stage itself says of these keys
/// stands. `--set KEY=VALUE` is for all stages, `--set stages.NAME.KEY=VALUE` for one. The same command goes on in the stage where it
/// was stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("required" = ["name"]))]
pub struct StageConfig {
    /// Names its folder, and with the run's name its product, `RUN-STAGE.safetensors`. Letters, digits, `-` and `_`.
    pub name: String,

    /// Keys of the configuration that are otherwise in this stage.
    #[serde(flatten)]
    #[schemars(skip)]
    pub keys: toml::Table,
}
