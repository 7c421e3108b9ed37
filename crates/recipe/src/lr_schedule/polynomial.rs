//! A power of what is left.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LrScheduleSettings;
use crate::Ranges;

/// Falls as a power of what is left of the run, as in diffusers, whose `lr_end` is `min_ratio` of the learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolynomialSchedule {
    /// Optimizer steps during which the rate rises from zero; less than 1: this share of the run.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: f64,

    /// The lowest rate, as a part of `optimizer.learning_rate`, 0 to 1.
    #[schemars(extend("x-other-names" = ["lr_scheduler_min_lr_ratio"]))]
    pub min_ratio: f64,

    /// The power. 1: a straight line; 2: falls fast at first.
    #[schemars(extend("x-other-names" = ["lr_scheduler_power"]))]
    pub power: f64,
}

impl Default for PolynomialSchedule {
    fn default() -> Self {
        PolynomialSchedule { warmup_steps: 0.0, min_ratio: 0.0, power: 1.0 }
    }
}

impl LrScheduleSettings for PolynomialSchedule {
    fn name(&self) -> &'static str {
        "polynomial"
    }

    fn warmup(&self) -> f64 {
        self.warmup_steps
    }

    fn min_ratio(&self) -> f64 {
        self.min_ratio
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.positive("power", self.power);
    }
}
