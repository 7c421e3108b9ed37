//! Gradient descent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OptimizerSettings, bytes_of};
use crate::Ranges;

/// Gradient descent, with or without momentum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    /// What gradients are multiplied by, before the schedule scales it. It must be found by trial: gradients of
    /// different models differ by orders of magnitude.
    #[schemars(extend("x-other-names" = ["lr", "unet_lr"]))]
    pub learning_rate: f64,

    /// How slowly the sum of the gradients forgets, 0 to 1. 0: there is none, and no memory for it. Typical: 0.9.
    pub momentum: f64,

    /// Look ahead: a step is what the momentum will be after the next step with the same gradient.
    pub nesterov: bool,

    /// How much of the weights is added to their gradients, which pulls them towards zero.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        SgdConfig { learning_rate: 1e-3, momentum: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

impl OptimizerSettings for SgdConfig {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn state_bytes(&self, shape: &[usize]) -> usize {
        if self.momentum == 0.0 { 0 } else { bytes_of(shape) }
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.positive("learning_rate", self.learning_rate);
        ranges.decay("momentum", self.momentum);
        ranges.not_negative("weight_decay", self.weight_decay);
        if self.nesterov && self.momentum == 0.0 {
            ranges.mistake("nesterov", "needs a momentum", Some("set `optimizer.momentum = 0.9`"));
        }
    }
}
