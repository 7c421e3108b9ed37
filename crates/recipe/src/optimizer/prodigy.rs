//! Prodigy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OptimizerSettings, bytes_of};
use crate::Ranges;

/// AdamW that finds its learning rate by itself (arXiv:2306.06101), as `prodigyopt` does: from how far the weights have
/// come and what the gradients say about that way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProdigyConfig {
    /// What the rate that it finds is multiplied by, before the schedule scales it. Typical: 1; to tune it, change `d_coef`.
    #[schemars(extend("x-other-names" = ["lr", "unet_lr"]))]
    pub learning_rate: f64,

    /// How slowly the running means of the gradient and of its square follow, each 0 to 1.
    pub betas: [f64; 2],

    /// How slowly the sums follow that the rate is found from, 0 to 1. Absent: the root of the second of `betas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta3: Option<f64>,

    /// Keeps the division by a small mean square in bounds.
    pub eps: f64,

    /// How strongly weights are pulled towards zero, times the rate, each step. Typical: 0.01.
    pub weight_decay: f64,

    /// Weight decay works on the weights, as in AdamW. Off: on the gradients, as in Adam.
    pub decouple: bool,

    /// Divide the running means by how much of them is known, as Adam does. Typical: on for diffusion models.
    pub use_bias_correction: bool,

    /// Leave the schedule out of the sum that the rate is divided by. Typical: on with a warm-up.
    pub safeguard_warmup: bool,

    /// The rate before anything is known.
    pub d0: f64,

    /// What the rate that it finds is multiplied by. Typical: 0.5 to 2.
    pub d_coef: f64,

    /// The rate grows by at most this factor a step. Absent: as much as it likes. Typical: 1.02.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_rate: Option<f64>,

    /// Find the rate from every so-many-th number of a tensor alone, for less memory. Typical: 11.
    pub slice_p: i64,
}

impl Default for ProdigyConfig {
    fn default() -> Self {
        ProdigyConfig {
            learning_rate: 1.0,
            betas: [0.9, 0.999],
            beta3: None,
            eps: 1e-8,
            weight_decay: 0.0,
            decouple: true,
            use_bias_correction: false,
            safeguard_warmup: false,
            d0: 1e-6,
            d_coef: 1.0,
            growth_rate: None,
            slice_p: 1,
        }
    }
}

impl ProdigyConfig {
    /// Bytes of every `slice_p`-th number of a tensor.
    fn sliced_bytes(&self, shape: &[usize]) -> usize {
        4 * shape.iter().product::<usize>().div_ceil(self.slice_p.max(1) as usize)
    }
}

impl OptimizerSettings for ProdigyConfig {
    fn name(&self) -> &'static str {
        "prodigy"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn state_bytes(&self, shape: &[usize]) -> usize {
        2 * bytes_of(shape) + 2 * self.sliced_bytes(shape)
    }

    fn large_state_bytes(&self, shape: &[usize]) -> usize {
        if self.slice_p > 1 { 2 * bytes_of(shape) } else { self.state_bytes(shape) }
    }

    fn first_weight_bytes(&self, shape: &[usize]) -> usize {
        self.sliced_bytes(shape)
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.positive("learning_rate", self.learning_rate);
        ranges.decays("betas", &self.betas);
        if self.betas[0] == 0.0 {
            ranges.mistake("betas", "must begin with more than 0: Prodigy here has a running mean", None);
        }
        ranges.decays("beta3", self.beta3.as_slice());
        ranges.positive("eps", self.eps);
        ranges.not_negative("weight_decay", self.weight_decay);
        ranges.positive("d0", self.d0);
        ranges.positive("d_coef", self.d_coef);
        check_growth(ranges, self.growth_rate);
        if self.slice_p < 1 {
            ranges.mistake("slice_p", format!("must be at least 1, not {}", self.slice_p), None);
        }
    }

    fn finds_its_rate(&self) -> bool {
        true
    }

    fn needs_all_tensors(&self) -> bool {
        true
    }
}

pub(super) fn check_growth(ranges: &mut Ranges, growth_rate: Option<f64>) {
    if let Some(rate) = growth_rate.filter(|rate| !(*rate > 1.0 && rate.is_finite())) {
        let hint = "leave it out for growth without a limit";
        ranges.mistake("growth_rate", format!("must be greater than 1, not {rate}"), Some(hint));
    }
}
