//! The learning rate as a pure function of the step, with diffusers' and transformers' curves.

mod cosine;
mod cosine_with_restarts;
mod inverse_sqrt;
mod linear;
mod piecewise_constant;
mod polynomial;
mod rex;
mod warmup_stable_decay;

use sdtrain_recipe::LrScheduleConfig;

/// What the base rate is multiplied by at `step` (counted from 0) of `total_steps`.
///
/// During the warm-up it rises from 0 in a straight line, as `diffusers.optimization` has it: the first step trains at
/// rate 0. Then the schedule's own factor `f` becomes `m + (1 - m) f` with `m` for its `min_ratio`. The
/// factors of `piecewise_constant` are written out: of those each is at least `m`, and is not stretched.
pub fn learning_rate_factor(config: &LrScheduleConfig, step: u64, total_steps: u64) -> f64 {
    let warmup_steps = config.warmup_steps(total_steps);
    if step < warmup_steps {
        return step as f64 / warmup_steps.max(1) as f64;
    }
    let after_warmup = step - warmup_steps;
    // 0 at the end of the warm-up, 1 at the end of the run.
    let progress = after_warmup as f64 / total_steps.saturating_sub(warmup_steps).max(1) as f64;
    let factor = match config {
        LrScheduleConfig::Constant(_) => 1.0,
        LrScheduleConfig::Linear(_) => linear::factor(progress),
        LrScheduleConfig::Cosine(config) => cosine::factor(config, progress),
        LrScheduleConfig::CosineWithRestarts(config) => cosine_with_restarts::factor(config, progress),
        LrScheduleConfig::Polynomial(config) => polynomial::factor(config, progress),
        LrScheduleConfig::InverseSqrt(config) => inverse_sqrt::factor(config, after_warmup, warmup_steps),
        LrScheduleConfig::WarmupStableDecay(config) => warmup_stable_decay::factor(config, step, total_steps),
        LrScheduleConfig::Rex(config) => rex::factor(config, progress),
        LrScheduleConfig::PiecewiseConstant(config) => return piecewise_constant::factor(config, step),
    };
    let min_ratio = config.settings().min_ratio();
    min_ratio + (1.0 - min_ratio) * factor
}
