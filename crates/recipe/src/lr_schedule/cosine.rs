//! Half a cosine, or several waves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LrScheduleSettings;
use crate::Ranges;

/// Falls along half a cosine, which reaches `min_ratio` one step after the last, as in diffusers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CosineSchedule {
    /// Optimizer steps during which the rate rises from zero; less than 1: this share of the run.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: f64,

    /// The lowest rate, as a part of `optimizer.learning_rate`, 0 to 1.
    #[schemars(extend("x-other-names" = ["lr_scheduler_min_lr_ratio"]))]
    pub min_ratio: f64,

    /// Waves of the cosine over the run; 0.5 falls once and ends low.
    #[schemars(extend("x-other-names" = ["lr_scheduler_num_cycles"]))]
    pub cycles: f64,
}

impl Default for CosineSchedule {
    fn default() -> Self {
        CosineSchedule { warmup_steps: 0.0, min_ratio: 0.0, cycles: 0.5 }
    }
}

impl LrScheduleSettings for CosineSchedule {
    fn name(&self) -> &'static str {
        "cosine"
    }

    fn warmup(&self) -> f64 {
        self.warmup_steps
    }

    fn min_ratio(&self) -> f64 {
        self.min_ratio
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.positive("cycles", self.cycles);
    }
}
