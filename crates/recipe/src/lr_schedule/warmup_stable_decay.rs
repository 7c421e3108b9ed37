//! A plateau with a fall at the end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LrScheduleSettings;
use crate::Ranges;

/// Stays at the top for most of the run and falls at its end (arXiv:2405.18392), as in transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupStableDecaySchedule {
    /// Optimizer steps during which the rate rises from zero; less than 1: this share of the run.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: f64,

    /// The lowest rate, as a part of `optimizer.learning_rate`, 0 to 1.
    #[schemars(extend("x-other-names" = ["lr_scheduler_min_lr_ratio"]))]
    pub min_ratio: f64,

    /// Optimizer steps at the end during which the rate falls; less than 1: this share of the run.
    #[schemars(extend("x-other-names" = ["lr_decay_steps"]))]
    pub decay_steps: f64,

    /// How it falls.
    pub decay_type: DecayType,
}

/// How the rate falls after the plateau.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecayType {
    /// In a straight line.
    Linear,
    /// Along half a cosine.
    Cosine,
    /// As 1 less the root of the part that is over: fast at first.
    OneMinusSqrt,
}

impl Default for WarmupStableDecaySchedule {
    fn default() -> Self {
        WarmupStableDecaySchedule { warmup_steps: 0.0, min_ratio: 0.0, decay_steps: 0.1, decay_type: DecayType::Cosine }
    }
}

impl LrScheduleSettings for WarmupStableDecaySchedule {
    fn name(&self) -> &'static str {
        "warmup_stable_decay"
    }

    fn warmup(&self) -> f64 {
        self.warmup_steps
    }

    fn min_ratio(&self) -> f64 {
        self.min_ratio
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.steps_or_share("decay_steps", self.decay_steps);
    }
}

impl WarmupStableDecaySchedule {
    /// Optimizer steps of a run of `total_steps` during which the rate falls.
    pub fn decay_steps(&self, total_steps: u64) -> u64 {
        super::steps_of(self.decay_steps, total_steps)
    }
}
