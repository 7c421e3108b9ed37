//! Steps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LrScheduleSettings;
use crate::Ranges;

/// Steps from one share of the rate to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PiecewiseConstantSchedule {
    /// Optimizer steps during which the rate rises from zero; less than 1: this share of the run.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: f64,

    /// The lowest rate, as a part of `optimizer.learning_rate`, 0 to 1: a smaller factor counts as this one. The others are what is
    /// written.
    #[schemars(extend("x-other-names" = ["lr_scheduler_min_lr_ratio"]))]
    pub min_ratio: f64,

    /// Steps of the run, counted from its start, at which the next factor begins; rising.
    pub boundaries: Vec<u64>,

    /// What the learning rate is multiplied by before the first boundary, between each two, and after the last: one more
    /// than there are boundaries.
    pub factors: Vec<f64>,
}

impl Default for PiecewiseConstantSchedule {
    fn default() -> Self {
        PiecewiseConstantSchedule { warmup_steps: 0.0, min_ratio: 0.0, boundaries: Vec::new(), factors: vec![1.0] }
    }
}

impl LrScheduleSettings for PiecewiseConstantSchedule {
    fn name(&self) -> &'static str {
        "piecewise_constant"
    }

    fn warmup(&self) -> f64 {
        self.warmup_steps
    }

    fn min_ratio(&self) -> f64 {
        self.min_ratio
    }

    fn check(&self, ranges: &mut Ranges) {
        if self.factors.len() != self.boundaries.len() + 1 {
            let message = format!(
                "must be one more than there are boundaries: {}, not {}",
                self.boundaries.len() + 1,
                self.factors.len()
            );
            ranges.mistake("factors", message, None);
        }
        self.factors.iter().for_each(|&factor| ranges.not_negative("factors", factor));
        if !self.boundaries.is_sorted_by(|a, b| a < b) {
            ranges.mistake("boundaries", "must rise", None);
        }
    }
}
