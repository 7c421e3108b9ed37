//! `[optimizer]`: the choices of `type` and their settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How weights follow their gradients; `type` chooses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OptimizerConfig {
    /// Adam with decoupled weight decay (arXiv:1711.05101).
    #[serde(rename = "adamw")]
    AdamW(AdamWConfig),
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig::AdamW(AdamWConfig::default())
    }
}

impl OptimizerConfig {
    /// The learning rate before any schedule.
    pub fn learning_rate(&self) -> f64 {
        match self {
            OptimizerConfig::AdamW(adamw) => adamw.learning_rate,
        }
    }

    /// The name as it is written in a configuration.
    pub fn name(&self) -> &'static str {
        match self {
            OptimizerConfig::AdamW(_) => "adamw",
        }
    }
}

/// Adam with decoupled weight decay (arXiv:1711.05101).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Size of a step before the schedule scales it. Typical: 1e-4 for a LoRA, 1e-5 for a whole model.
    #[schemars(extend("x-other-names" = ["lr", "unet_lr"]))]
    pub learning_rate: f64,

    /// How slowly the running means of the gradient and of its square follow, each 0 to 1.
    #[schemars(extend("x-other-names" = ["adam_beta1", "adam_beta2"]))]
    pub betas: [f64; 2],

    /// Keeps the division by a small mean square in bounds.
    #[schemars(extend("x-other-names" = ["adam_epsilon"]))]
    pub eps: f64,

    /// How strongly weights are pulled towards zero, times the learning rate, each step.
    #[schemars(extend("x-other-names" = ["adam_weight_decay"]))]
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { learning_rate: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-2 }
    }
}
