//! CAME.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OptimizerSettings, bytes_of, factored_bytes, large_factored_bytes};
use crate::Ranges;

/// Adafactor with a momentum that counts as far as it can be trusted (arXiv:2307.02047), as `came-pytorch` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CameConfig {
    /// Size of a step before the schedule scales it. Typical: as for `adamw` or half of it. The package has no default.
    #[schemars(extend("x-other-names" = ["lr", "unet_lr"]))]
    pub learning_rate: f64,

    /// How slowly the running means of the updates, of the squares of gradients, and of how far updates stray follow, each
    /// 0 to 1.
    pub betas: [f64; 3],

    /// Added to the squares of gradients, and to the squares of how far updates stray.
    pub eps: [f64; 2],

    /// Updates of a tensor whose root mean square is larger are scaled down to it.
    pub clip_threshold: f64,

    /// How strongly weights are pulled towards zero, times the learning rate, each step.
    pub weight_decay: f64,
}

impl Default for CameConfig {
    fn default() -> Self {
        CameConfig {
            learning_rate: 1e-4,
            betas: [0.9, 0.999, 0.9999],
            eps: [1e-30, 1e-16],
            clip_threshold: 1.0,
            weight_decay: 0.0,
        }
    }
}

impl OptimizerSettings for CameConfig {
    fn name(&self) -> &'static str {
        "came"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn state_bytes(&self, shape: &[usize]) -> usize {
        bytes_of(shape) + factored_means(shape) * factored_bytes(shape)
    }

    fn large_state_bytes(&self, shape: &[usize]) -> usize {
        bytes_of(shape) + factored_means(shape) * large_factored_bytes(shape)
    }

    fn decoupled_decay(&self) -> f64 {
        self.weight_decay
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.positive("learning_rate", self.learning_rate);
        ranges.decays("betas", &self.betas);
        self.eps.iter().for_each(|&eps| ranges.positive("eps", eps));
        ranges.positive("clip_threshold", self.clip_threshold);
        ranges.not_negative("weight_decay", self.weight_decay);
    }
}

/// The mean of squares, and that of how far updates stray, which vectors have none of.
fn factored_means(shape: &[usize]) -> usize {
    if shape.len() >= 2 { 2 } else { 1 }
}
