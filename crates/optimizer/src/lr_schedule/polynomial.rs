//! A power of what is left (diffusers: `get_polynomial_decay_schedule_with_warmup`).

use sdtrain_recipe::PolynomialSchedule;

/// `progress` goes from 0 to 1.
pub(super) fn factor(config: &PolynomialSchedule, progress: f64) -> f64 {
    (1.0 - progress).max(0.0).powf(config.power)
}
