//! Adafactor.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OptimizerSettings, bytes_of, factored_bytes, large_factored_bytes};
use crate::{LrScheduleConfig, Ranges};

/// Keeps a row and a column in place of the squares of a matrix's gradients (arXiv:1804.04235), as transformers'
/// `Adafactor` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdafactorConfig {
    /// Size of a step before the schedule scales it; only with `relative_step = false`. Typical: 1e-4 for a LoRA, 1e-5
    /// for a whole model, with `scale_parameter = false`.
    #[schemars(extend("x-other-names" = ["lr", "unet_lr"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,

    /// Added to the squares of gradients; and the smallest size that `scale_parameter` takes weights to have.
    pub eps: [f64; 2],

    /// Updates of a tensor whose root mean square is larger are scaled down to it.
    pub clip_threshold: f64,

    /// The running mean of squares forgets as `1 - step^decay_rate`: slower and slower.
    pub decay_rate: f64,

    /// How slowly a running mean of the updates follows, 0 to 1. Absent: there is none, and no memory for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,

    /// How strongly weights are pulled towards zero, times the size of the step, each step.
    #[schemars(extend("x-other-names" = ["adam_weight_decay"]))]
    pub weight_decay: f64,

    /// Scale each step by the root mean square of the tensor's weights.
    pub scale_parameter: bool,

    /// Steps of size `1/√step`, at most 1e-2, in place of a learning rate.
    pub relative_step: bool,

    /// Let steps begin at 1e-6 and grow by as much each step; only with `relative_step`.
    pub warmup_init: bool,
}

impl Default for AdafactorConfig {
    fn default() -> Self {
        AdafactorConfig {
            learning_rate: None,
            eps: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            weight_decay: 0.0,
            scale_parameter: true,
            relative_step: true,
            warmup_init: false,
        }
    }
}

impl OptimizerSettings for AdafactorConfig {
    fn name(&self) -> &'static str {
        "adafactor"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate.unwrap_or(1.0)
    }

    fn state_bytes(&self, shape: &[usize]) -> usize {
        factored_bytes(shape) + self.beta1.map_or(0, |_| bytes_of(shape))
    }

    fn large_state_bytes(&self, shape: &[usize]) -> usize {
        large_factored_bytes(shape) + self.beta1.map_or(0, |_| bytes_of(shape))
    }

    fn decoupled_decay(&self) -> f64 {
        // Both make the rate another one: that of the step's number, or of the size of each tensor's weights.
        if self.relative_step || self.scale_parameter { 0.0 } else { self.weight_decay }
    }

    fn check(&self, ranges: &mut Ranges) {
        match (self.learning_rate, self.relative_step) {
            (Some(_), true) => {
                let hint = "set `optimizer.relative_step = false`, or remove the learning rate";
                ranges.mistake("learning_rate", "is not used with `relative_step = true`", Some(hint));
            }
            (None, false) => {
                let hint = "1e-4 is usual for a LoRA, 1e-5 for a whole model";
                ranges.mistake("learning_rate", "is needed with `relative_step = false`", Some(hint));
            }
            (Some(rate), false) => ranges.positive("learning_rate", rate),
            (None, true) => {}
        }
        if self.warmup_init && !self.relative_step {
            ranges.mistake("warmup_init", "needs `relative_step = true`", Some("set `lr_schedule.warmup_steps`"));
        }
        self.eps.iter().for_each(|&eps| ranges.positive("eps", eps));
        ranges.positive("clip_threshold", self.clip_threshold);
        if !(self.decay_rate < 0.0 && self.decay_rate.is_finite()) {
            ranges.mistake("decay_rate", format!("must be less than 0, not {}", self.decay_rate), None);
        }
        ranges.not_negative("weight_decay", self.weight_decay);
        ranges.decays("beta1", self.beta1.as_slice());
    }

    fn finds_its_rate(&self) -> bool {
        self.relative_step
    }

    fn refuses(&self, schedule: &LrScheduleConfig) -> Option<(String, String)> {
        let follows = !self.relative_step || (schedule.is_constant() && schedule.warmup() == 0.0);
        (!follows).then(|| {
            let way_out = match schedule.is_constant() {
                true => "set `optimizer.warmup_init = true` in place of `lr_schedule.warmup_steps`",
                false => "set `optimizer.relative_step = false` and a learning rate, or leave `[lr_schedule]` out",
            };
            ("with `relative_step = true` the size of steps follows their number alone".into(), way_out.into())
        })
    }
}
