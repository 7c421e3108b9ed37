//! A straight line down to `min_ratio`.

use sdtrain_recipe::LinearSchedule;

/// `progress` goes from 0 to 1.
pub(super) fn factor(config: &LinearSchedule, progress: f64) -> f64 {
    config.min_ratio + (1.0 - config.min_ratio) * (1.0 - progress).max(0.0)
}
