//! Lion.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OptimizerSettings, bytes_of};
use crate::Ranges;

/// Goes by the sign of a running mean of the gradients (arXiv:2302.06675): half of AdamW's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LionConfig {
    /// Size of a step before the schedule scales it. Every weight moves by all of it in every step. Typical: a third to a
    /// tenth of AdamW's.
    #[schemars(extend("x-other-names" = ["lr", "unet_lr"]))]
    pub learning_rate: f64,

    /// How much of the running mean a step is made of, and how slowly the mean follows, each 0 to 1.
    pub betas: [f64; 2],

    /// How strongly weights are pulled towards zero, times the learning rate, each step. Typical: three to ten times
    /// AdamW's, since the learning rate is as much smaller.
    pub weight_decay: f64,
}

impl Default for LionConfig {
    fn default() -> Self {
        LionConfig { learning_rate: 1e-4, betas: [0.9, 0.99], weight_decay: 0.0 }
    }
}

impl OptimizerSettings for LionConfig {
    fn name(&self) -> &'static str {
        "lion"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn state_bytes(&self, shape: &[usize]) -> usize {
        bytes_of(shape)
    }

    fn decoupled_decay(&self) -> f64 {
        self.weight_decay
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.positive("learning_rate", self.learning_rate);
        ranges.not_negative("weight_decay", self.weight_decay);
        ranges.decays("betas", &self.betas);
    }
}
