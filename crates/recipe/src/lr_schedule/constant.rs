//! The same rate throughout.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LrScheduleSettings;

/// The same rate from the end of the warm-up on. It never falls, so it has no `min_ratio`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConstantSchedule {
    /// Optimizer steps during which the rate rises from zero; less than 1: this share of the run.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: f64,
}

impl LrScheduleSettings for ConstantSchedule {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn warmup(&self) -> f64 {
        self.warmup_steps
    }
}
