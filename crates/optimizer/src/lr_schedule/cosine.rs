//! Half a cosine, or several waves (diffusers: `get_cosine_schedule_with_warmup`).

use sdtrain_recipe::CosineSchedule;
use std::f64::consts::PI;

/// `progress` goes from 0 to 1; half a cycle falls once.
pub(super) fn factor(config: &CosineSchedule, progress: f64) -> f64 {
    (0.5 * (1.0 + (PI * config.cycles * 2.0 * progress).cos())).max(0.0)
}
