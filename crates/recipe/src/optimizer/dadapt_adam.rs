//! Adam with D-Adaptation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::prodigy::check_growth;
use super::{OptimizerSettings, bytes_of};
use crate::Ranges;

/// Adam that finds its learning rate by itself (arXiv:2301.07733), as `dadaptation`'s `DAdaptAdam` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DAdaptAdamConfig {
    /// What the rate that it finds is multiplied by, before the schedule scales it. Typical: 1; 0.5 for more care.
    #[schemars(extend("x-other-names" = ["lr", "unet_lr"]))]
    pub learning_rate: f64,

    /// How slowly the running means of the gradient and of its square follow, each 0 to 1.
    pub betas: [f64; 2],

    /// Keeps the division by a small mean square in bounds.
    pub eps: f64,

    /// How strongly weights are pulled towards zero, each step.
    pub weight_decay: f64,

    /// Weight decay works on the weights, as in AdamW. Off: on the gradients, as in Adam.
    pub decouple: bool,

    /// Divide the running means by how much of them is known, as Adam does.
    pub use_bias_correction: bool,

    /// The rate before anything is known.
    pub d0: f64,

    /// The rate grows by at most this factor a step. Absent: as much as it likes. Typical: 1.02.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_rate: Option<f64>,
}

impl Default for DAdaptAdamConfig {
    fn default() -> Self {
        DAdaptAdamConfig {
            learning_rate: 1.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            decouple: false,
            use_bias_correction: false,
            d0: 1e-6,
            growth_rate: None,
        }
    }
}

impl OptimizerSettings for DAdaptAdamConfig {
    fn name(&self) -> &'static str {
        "dadapt_adam"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn state_bytes(&self, shape: &[usize]) -> usize {
        3 * bytes_of(shape)
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.positive("learning_rate", self.learning_rate);
        ranges.decays("betas", &self.betas);
        ranges.positive("eps", self.eps);
        ranges.not_negative("weight_decay", self.weight_decay);
        ranges.positive("d0", self.d0);
        check_growth(ranges, self.growth_rate);
    }

    fn finds_its_rate(&self) -> bool {
        true
    }

    fn needs_all_tensors(&self) -> bool {
        true
    }
}
