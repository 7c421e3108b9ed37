//! Slow at first and fast at the end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LrScheduleSettings;
use crate::Ranges;

/// Falls slowly at first and fast at the end (REX, arXiv:2107.04197).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RexSchedule {
    /// Optimizer steps during which the rate rises from zero; less than 1: this share of the run.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: f64,

    /// The lowest rate, as a part of `optimizer.learning_rate`, 0 to 1.
    #[schemars(extend("x-other-names" = ["lr_scheduler_min_lr_ratio"]))]
    pub min_ratio: f64,

    /// How long the rate stays up: with `p` for the part of the run that is over, it is `(1 - p) / ((1 - d) + d (1 - p))`.
    /// 0: a straight line. 0.5 is the paper's, 0.9 is OneTrainer's.
    pub d: f64,
}

impl Default for RexSchedule {
    fn default() -> Self {
        RexSchedule { warmup_steps: 0.0, min_ratio: 0.0, d: 0.5 }
    }
}

impl LrScheduleSettings for RexSchedule {
    fn name(&self) -> &'static str {
        "rex"
    }

    fn warmup(&self) -> f64 {
        self.warmup_steps
    }

    fn min_ratio(&self) -> f64 {
        self.min_ratio
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.decay("d", self.d);
    }
}
