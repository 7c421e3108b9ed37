//! `[lr_schedule]`: the choices of `type` and their settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate changes over the run; `type` chooses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LrScheduleConfig {
    /// The same rate from the end of the warm-up on.
    Constant(ConstantSchedule),
    /// Falls in a straight line, which reaches `min_ratio` one step after the last, as in diffusers.
    Linear(LinearSchedule),
    /// Falls along half a cosine, which reaches `min_ratio` one step after the last, as in diffusers.
    Cosine(CosineSchedule),
}

impl Default for LrScheduleConfig {
    fn default() -> Self {
        LrScheduleConfig::Constant(ConstantSchedule::default())
    }
}

impl LrScheduleConfig {
    /// The name as it is written in a configuration.
    pub fn name(&self) -> &'static str {
        match self {
            LrScheduleConfig::Constant(_) => "constant",
            LrScheduleConfig::Linear(_) => "linear",
            LrScheduleConfig::Cosine(_) => "cosine",
        }
    }

    /// Optimizer steps during which the rate rises from zero.
    pub fn warmup_steps(&self) -> u64 {
        match self {
            LrScheduleConfig::Constant(schedule) => schedule.warmup_steps,
            LrScheduleConfig::Linear(schedule) => schedule.warmup_steps,
            LrScheduleConfig::Cosine(schedule) => schedule.warmup_steps,
        }
    }
}

/// The same rate from the end of the warm-up on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConstantSchedule {
    /// Optimizer steps during which the rate rises from zero.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: u64,
}

/// Falls in a straight line, which reaches `min_ratio` one step after the last, as in diffusers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LinearSchedule {
    /// Optimizer steps during which the rate rises from zero.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: u64,

    /// The rate at the end, as a part of `optimizer.learning_rate`, 0 to 1.
    #[schemars(extend("x-other-names" = ["lr_scheduler_min_lr_ratio"]))]
    pub min_ratio: f64,
}

/// Falls along half a cosine, which reaches `min_ratio` one step after the last, as in diffusers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CosineSchedule {
    /// Optimizer steps during which the rate rises from zero.
    #[schemars(extend("x-other-names" = ["lr_warmup_steps"]))]
    pub warmup_steps: u64,

    /// The lowest rate, as a part of `optimizer.learning_rate`, 0 to 1.
    #[schemars(extend("x-other-names" = ["lr_scheduler_min_lr_ratio"]))]
    pub min_ratio: f64,

    /// Waves of the cosine over the run; 0.5 falls once and ends low.
    #[schemars(extend("x-other-names" = ["lr_scheduler_num_cycles"]))]
    pub cycles: f64,
}

impl Default for CosineSchedule {
    fn default() -> Self {
        CosineSchedule { warmup_steps: 0, min_ratio: 0.0, cycles: 0.5 }
    }
}
