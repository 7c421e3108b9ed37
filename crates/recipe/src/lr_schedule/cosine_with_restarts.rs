//! Half a cosine, again and again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LrScheduleSettings;
use crate::Ranges;

/// Falls along half a cosine several times, and starts again at the top after each, as in diffusers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CosineWithRestartsSchedule {
    /// Optimizer steps during which the rate rises from zero; less than 1: this share of the run.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: f64,

    /// The lowest rate, as a part of `optimizer.learning_rate`, 0 to 1.
    #[schemars(extend("x-other-names" = ["lr_scheduler_min_lr_ratio"]))]
    pub min_ratio: f64,

    /// How many times the rate falls.
    #[schemars(extend("x-other-names" = ["lr_scheduler_num_cycles"]))]
    pub cycles: u64,
}

impl Default for CosineWithRestartsSchedule {
    fn default() -> Self {
        CosineWithRestartsSchedule { warmup_steps: 0.0, min_ratio: 0.0, cycles: 1 }
    }
}

impl LrScheduleSettings for CosineWithRestartsSchedule {
    fn name(&self) -> &'static str {
        "cosine_with_restarts"
    }

    fn warmup(&self) -> f64 {
        self.warmup_steps
    }

    fn min_ratio(&self) -> f64 {
        self.min_ratio
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.at_least_one("cycles", self.cycles);
    }
}
