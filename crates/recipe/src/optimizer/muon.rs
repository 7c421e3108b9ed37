//! Muon.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AdamWConfig, OptimizerSettings, bytes_of};
use crate::Ranges;

/// Momentum made orthogonal for matrices (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>), as
/// `torch.optim.Muon` does it; AdamW for everything else: biases, norms, convolutions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MuonConfig {
    /// Size of a step of the matrices before the schedule scales it. Typical: 1e-3; with
    /// `adjust_learning_rate = "match_rms_adamw"` as for `adamw`.
    #[schemars(extend("x-other-names" = ["lr", "unet_lr"]))]
    pub learning_rate: f64,

    /// How strongly matrices are pulled towards zero, times the learning rate, each step.
    pub weight_decay: f64,

    /// How slowly the running mean of the gradients follows, 0 to 1.
    pub momentum: f64,

    /// Look ahead: a step is made of the momentum and the gradient.
    pub nesterov: bool,

    /// Coefficients of the Newton-Schulz iteration, which brings all singular values of a matrix near to 1.
    pub ns_coefficients: [f64; 3],

    /// Iterations of it.
    pub ns_steps: u64,

    /// Keeps the division by the norm of a matrix in bounds.
    pub eps: f64,

    /// How the learning rate follows the shape of a matrix.
    pub adjust_learning_rate: MuonAdjustment,

    /// AdamW for what is no matrix. Its learning rate changes as that of the matrices does, the rates of single parts included: it is
    /// always `adamw.learning_rate / learning_rate` times theirs, which is the one that logs show.
    pub adamw: AdamWConfig,
}

impl MuonConfig {
    /// Whether the tensor `name`, of so many dimensions, is a matrix that features go through. Tables of embeddings have two as well, but
    /// a row of them is looked up by itself, and a learned word is made of such rows.
    pub fn is_matrix(name: &str, dimensions: usize) -> bool {
        let is_table = name.ends_with("_embedding.weight") || name.ends_with("_embeddings.weight");
        dimensions == 2 && !is_table && !name.contains("learned_tokens.")
    }

    /// How many times the rate of the matrices that of everything else is.
    pub fn rate_of_rest(&self) -> f64 {
        self.adamw.learning_rate / self.learning_rate
    }
}

/// How Muon's learning rate follows the shape of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MuonAdjustment {
    /// Times `√max(1, rows/columns)`.
    Original,
    /// Times `0.2 √max(rows, columns)`: steps are as large as AdamW's (arXiv:2502.16982).
    MatchRmsAdamw,
}

impl Default for MuonConfig {
    fn default() -> Self {
        MuonConfig {
            learning_rate: 1e-3,
            weight_decay: 0.1,
            momentum: 0.95,
            nesterov: true,
            ns_coefficients: [3.4445, -4.7750, 2.0315],
            ns_steps: 5,
            eps: 1e-7,
            adjust_learning_rate: MuonAdjustment::Original,
            adamw: AdamWConfig::default(),
        }
    }
}

impl OptimizerSettings for MuonConfig {
    fn name(&self) -> &'static str {
        "muon"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn state_bytes(&self, shape: &[usize]) -> usize {
        if shape.len() == 2 { bytes_of(shape) } else { self.adamw.state_bytes(shape) }
    }

    fn decoupled_decay(&self) -> f64 {
        self.weight_decay
    }

    fn rest(&self) -> Option<(&AdamWConfig, f64)> {
        Some((&self.adamw, self.rate_of_rest()))
    }

    fn is_of_rest(&self, name: &str, dimensions: usize) -> bool {
        !MuonConfig::is_matrix(name, dimensions)
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.positive("learning_rate", self.learning_rate);
        ranges.not_negative("weight_decay", self.weight_decay);
        ranges.decay("momentum", self.momentum);
        ranges.at_least_one("ns_steps", self.ns_steps);
        if self.ns_steps >= 100 {
            ranges.mistake("ns_steps", format!("must be less than 100, not {}", self.ns_steps), None);
        }
        ranges.positive("eps", self.eps);
        let mut inner = Ranges::default();
        self.adamw.check(&mut inner);
        for mistake in inner.mistakes {
            ranges.mistake(&format!("adamw.{}", mistake.key), mistake.message, mistake.hint.as_deref());
        }
    }
}
