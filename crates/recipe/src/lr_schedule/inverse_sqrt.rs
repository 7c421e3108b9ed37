//! One over a root.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LrScheduleSettings;
use crate::Ranges;

/// Falls as one over the root of the steps, without looking at the run's end, as in transformers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InverseSqrtSchedule {
    /// Optimizer steps during which the rate rises from zero; less than 1: this share of the run.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: f64,

    /// The lowest rate, as a part of `optimizer.learning_rate`, 0 to 1.
    #[schemars(extend("x-other-names" = ["lr_scheduler_min_lr_ratio"]))]
    pub min_ratio: f64,

    /// Steps, the warm-up among them, after which the rate has begun to fall: at four times as many it is half.
    /// Absent: those of the warm-up, or 10000 without one.
    #[schemars(extend("x-other-names" = ["lr_scheduler_timescale"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timescale: Option<u64>,
}

impl LrScheduleSettings for InverseSqrtSchedule {
    fn name(&self) -> &'static str {
        "inverse_sqrt"
    }

    fn warmup(&self) -> f64 {
        self.warmup_steps
    }

    fn min_ratio(&self) -> f64 {
        self.min_ratio
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.at_least_one("timescale", self.timescale.unwrap_or(1));
    }
}

impl InverseSqrtSchedule {
    /// The timescale of a run with `warmup_steps`.
    pub fn timescale(&self, warmup_steps: u64) -> u64 {
        self.timescale.unwrap_or(if warmup_steps == 0 { 10_000 } else { warmup_steps })
    }
}
