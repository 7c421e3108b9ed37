//! A straight line.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LrScheduleSettings;

/// Falls in a straight line, which reaches `min_ratio` one step after the last, as in diffusers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LinearSchedule {
    /// Optimizer steps during which the rate rises from zero; less than 1: this share of the run.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: f64,

    /// The lowest rate, as a part of `optimizer.learning_rate`, 0 to 1.
    #[schemars(extend("x-other-names" = ["lr_scheduler_min_lr_ratio"]))]
    pub min_ratio: f64,
}

impl LrScheduleSettings for LinearSchedule {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn warmup(&self) -> f64 {
        self.warmup_steps
    }

    fn min_ratio(&self) -> f64 {
        self.min_ratio
    }
}
