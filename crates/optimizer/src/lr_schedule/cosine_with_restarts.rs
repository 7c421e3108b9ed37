//! Half a cosine, again and again (diffusers: `get_cosine_with_hard_restarts_schedule_with_warmup`).

use sdtrain_recipe::CosineWithRestartsSchedule;
use std::f64::consts::PI;

/// `progress` goes from 0 to 1.
pub(super) fn factor(config: &CosineWithRestartsSchedule, progress: f64) -> f64 {
    // Past the end it stays low, where the next fall would begin.
    let within = if progress >= 1.0 { 1.0 } else { (config.cycles as f64 * progress).fract() };
    0.5 * (1.0 + (PI * within).cos())
}
