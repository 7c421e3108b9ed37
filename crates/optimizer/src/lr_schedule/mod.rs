//! The learning rate as a pure function of the step, with diffusers' curves.

mod constant;
mod cosine;
mod linear;

use sdtrain_recipe::LrScheduleConfig;

/// What the base rate is multiplied by at `step` (counted from 0) of `total_steps`.
///
/// During `warmup_steps` it rises from 0 in a straight line, as `diffusers.optimization` has it: the first of them
/// trains at rate 0.
pub fn learning_rate_factor(config: &LrScheduleConfig, step: u64, total_steps: u64) -> f64 {
    let warmup_steps = config.warmup_steps();
    if step < warmup_steps {
        return step as f64 / warmup_steps.max(1) as f64;
    }
    // 0 at the end of the warm-up, 1 at the end of the run.
    let progress = (step - warmup_steps) as f64 / total_steps.saturating_sub(warmup_steps).max(1) as f64;
    match config {
        LrScheduleConfig::Constant(_) => constant::factor(),
        LrScheduleConfig::Linear(config) => linear::factor(config, progress),
        LrScheduleConfig::Cosine(config) => cosine::factor(config, progress),
    }
}
