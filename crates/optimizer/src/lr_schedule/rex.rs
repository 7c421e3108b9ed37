//! Slow at first and fast at the end (Chen et al. 2021, arXiv:2107.04197, equation 1).

use sdtrain_recipe::RexSchedule;

/// `progress` goes from 0 to 1.
pub(super) fn factor(config: &RexSchedule, progress: f64) -> f64 {
    let left = (1.0 - progress).max(0.0);
    left / ((1.0 - config.d) + config.d * left)
}
