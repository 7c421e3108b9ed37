//! AdamW without a schedule.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OptimizerSettings, bytes_of};
use crate::{LrScheduleConfig, Ranges};

/// AdamW that averages its weights in place of letting the rate fall (arXiv:2405.15682), as `schedulefree` does. Validation,
/// pictures and products have the averaged weights; checkpoints hold both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWScheduleFreeConfig {
    /// Size of a step; a warm-up of `[lr_schedule]` scales it. Typical: one to ten times AdamW's.
    #[schemars(extend("x-other-names" = ["lr", "unet_lr"]))]
    pub learning_rate: f64,

    /// How far gradients are taken from the newest weights towards the average, and how slowly the running mean of their
    /// squares follows, each 0 to 1. Typical: the first up to 0.98 for long runs.
    pub betas: [f64; 2],

    /// Keeps the division by a small mean square in bounds.
    pub eps: f64,

    /// How strongly weights are pulled towards zero, times the learning rate, each step.
    pub weight_decay: f64,

    /// Later steps count in the average as their number to this power. 0: all the same.
    pub r: f64,

    /// Steps count in the average as the largest learning rate so far to this power: those of a warm-up count less.
    pub weight_lr_power: f64,
}

impl Default for AdamWScheduleFreeConfig {
    fn default() -> Self {
        AdamWScheduleFreeConfig {
            learning_rate: 2.5e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            r: 0.0,
            weight_lr_power: 2.0,
        }
    }
}

impl OptimizerSettings for AdamWScheduleFreeConfig {
    fn name(&self) -> &'static str {
        "adamw_schedule_free"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn state_bytes(&self, shape: &[usize]) -> usize {
        2 * bytes_of(shape)
    }

    fn decoupled_decay(&self) -> f64 {
        self.weight_decay
    }

    fn check(&self, ranges: &mut Ranges) {
        ranges.positive("learning_rate", self.learning_rate);
        ranges.decays("betas", &self.betas);
        if self.betas[0] == 0.0 {
            ranges.mistake("betas", "must begin with more than 0: without it there is no average", None);
        }
        ranges.positive("eps", self.eps);
        ranges.not_negative("weight_decay", self.weight_decay);
        ranges.not_negative("r", self.r);
        ranges.not_negative("weight_lr_power", self.weight_lr_power);
    }

    fn averages_weights(&self) -> bool {
        true
    }

    fn refuses(&self, schedule: &LrScheduleConfig) -> Option<(String, String)> {
        (!schedule.is_constant()).then(|| {
            let way_out =
                "set `lr_schedule.type = \"constant\"`, with a warm-up if you like; or `optimizer.type = \"adamw\"`";
            ("it averages weights in place of letting the rate fall".into(), way_out.into())
        })
    }
}
