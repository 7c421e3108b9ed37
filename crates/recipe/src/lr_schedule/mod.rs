//! `[lr_schedule]`: the choices of `type`; the settings of each are a file beside this one.

mod constant;
mod cosine;
mod cosine_with_restarts;
mod inverse_sqrt;
mod linear;
mod piecewise_constant;
mod polynomial;
mod rex;
mod warmup_stable_decay;

pub use constant::ConstantSchedule;
pub use cosine::CosineSchedule;
pub use cosine_with_restarts::CosineWithRestartsSchedule;
pub use inverse_sqrt::InverseSqrtSchedule;
pub use linear::LinearSchedule;
pub use piecewise_constant::PiecewiseConstantSchedule;
pub use polynomial::PolynomialSchedule;
pub use rex::RexSchedule;
pub use warmup_stable_decay::{DecayType, WarmupStableDecaySchedule};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Ranges;

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
    /// Falls along half a cosine several times, and starts again at the top after each.
    CosineWithRestarts(CosineWithRestartsSchedule),
    /// Falls as a power of what is left of the run.
    Polynomial(PolynomialSchedule),
    /// Falls as one over the root of the steps, without looking at the run's end.
    InverseSqrt(InverseSqrtSchedule),
    /// Stays at the top for most of the run and falls at its end (arXiv:2405.18392).
    WarmupStableDecay(WarmupStableDecaySchedule),
    /// Falls slowly at first and fast at the end (REX, arXiv:2107.04197).
    Rex(RexSchedule),
    /// Steps from one share of the rate to the next.
    PiecewiseConstant(PiecewiseConstantSchedule),
}

impl Default for LrScheduleConfig {
    fn default() -> Self {
        LrScheduleConfig::Constant(ConstantSchedule::default())
    }
}

/// What every schedule's settings answer.
pub trait LrScheduleSettings {
    /// The name as it is written in a configuration.
    fn name(&self) -> &'static str;

    /// `warmup_steps` as it is written: a number of steps, or less than 1 for a share of the run.
    fn warmup(&self) -> f64;

    /// The rate that it falls to, as a part of the whole rate.
    fn min_ratio(&self) -> f64 {
        0.0
    }

    /// Reports settings that are out of range or contradict each other.
    fn check(&self, _ranges: &mut Ranges) {}
}

impl LrScheduleConfig {
    /// The settings of the chosen one: the list's one place.
    pub fn settings(&self) -> &dyn LrScheduleSettings {
        match self {
            LrScheduleConfig::Constant(settings) => settings,
            LrScheduleConfig::Linear(settings) => settings,
            LrScheduleConfig::Cosine(settings) => settings,
            LrScheduleConfig::CosineWithRestarts(settings) => settings,
            LrScheduleConfig::Polynomial(settings) => settings,
            LrScheduleConfig::InverseSqrt(settings) => settings,
            LrScheduleConfig::WarmupStableDecay(settings) => settings,
            LrScheduleConfig::Rex(settings) => settings,
            LrScheduleConfig::PiecewiseConstant(settings) => settings,
        }
    }

    /// The name as it is written in a configuration.
    pub fn name(&self) -> &'static str {
        self.settings().name()
    }

    /// Optimizer steps of a run of `total_steps` during which the rate rises from zero.
    pub fn warmup_steps(&self, total_steps: u64) -> u64 {
        steps_of(self.settings().warmup(), total_steps)
    }

    /// Whether the rate stays the same once the warm-up is over.
    pub fn is_constant(&self) -> bool {
        matches!(self, LrScheduleConfig::Constant(_))
    }

    /// `warmup_steps` as it is written.
    pub(crate) fn warmup(&self) -> f64 {
        self.settings().warmup()
    }

    /// Reports what is wrong with any schedule's common settings, and with its own.
    pub(crate) fn check(&self, ranges: &mut Ranges) {
        ranges.steps_or_share("warmup_steps", self.warmup());
        ranges.share("min_ratio", self.settings().min_ratio());
        self.settings().check(ranges);
    }
}

/// Steps of a run of `total_steps`: `length` itself, or, where it is less than 1, that share of them, rounded.
pub(crate) fn steps_of(length: f64, total_steps: u64) -> u64 {
    if length < 1.0 { (length * total_steps as f64).round() as u64 } else { length as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_below_1_is_a_share_of_the_run() {
        let schedule =
            |warmup_steps| LrScheduleConfig::Linear(LinearSchedule { warmup_steps, ..LinearSchedule::default() });
        assert_eq!(schedule(0.05).warmup_steps(1000), 50);
        assert_eq!(schedule(0.07).warmup_steps(100), 7);
        assert_eq!(schedule(1.0).warmup_steps(100), 1);
        assert_eq!(schedule(30.0).warmup_steps(100), 30);
    }
}
