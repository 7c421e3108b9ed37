//! AdamW.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OptimizerSettings, bytes_of};
use crate::Ranges;

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

impl OptimizerSettings for AdamWConfig {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn state_bytes(&self, shape: &[usize]) -> usize {
        2 * bytes_of(shape)
    }

    fn decoupled_decay(&self) -> f64 {
        self.weight_decay
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.positive("learning_rate", self.learning_rate);
        ranges.positive("eps", self.eps);
        ranges.not_negative("weight_decay", self.weight_decay);
        ranges.decays("betas", &self.betas);
    }
}
