//! AdamW with 8-bit state.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OptimizerSettings, bytes_of};
use crate::Ranges;

/// AdamW whose running means are kept in 8 bits (arXiv:2110.02861), as bitsandbytes' `AdamW8bit` keeps them: in blocks of
/// 256 numbers, each with its largest one in fp32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW8bitConfig {
    /// Size of a step before the schedule scales it. Typical: as for `adamw`.
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

    /// Tensors with fewer numbers than this keep their means in fp32.
    pub min_8bit_size: usize,
}

impl AdamW8bitConfig {
    /// Numbers that share a scale.
    pub const BLOCK_SIZE: usize = 256;

    /// Whether a tensor of so many numbers keeps its means in 8 bits.
    pub fn is_quantized(&self, numbers: usize) -> bool {
        numbers >= self.min_8bit_size
    }
}

impl Default for AdamW8bitConfig {
    fn default() -> Self {
        AdamW8bitConfig { learning_rate: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-2, min_8bit_size: 4096 }
    }
}

impl OptimizerSettings for AdamW8bitConfig {
    fn name(&self) -> &'static str {
        "adamw_8bit"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn state_bytes(&self, shape: &[usize]) -> usize {
        let numbers = shape.iter().product();
        match self.is_quantized(numbers) {
            true => 2 * (numbers + 4 * numbers.div_ceil(AdamW8bitConfig::BLOCK_SIZE)),
            false => 2 * bytes_of(shape),
        }
    }

    fn large_state_bytes(&self, shape: &[usize]) -> usize {
        if self.is_quantized(shape.iter().product()) { 0 } else { 2 * bytes_of(shape) }
    }

    fn quantizes_state(&self) -> bool {
        true
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
