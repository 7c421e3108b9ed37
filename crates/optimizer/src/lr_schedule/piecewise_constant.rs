//! Steps from one factor to the next (diffusers: `get_piecewise_constant_schedule`).

use sdtrain_recipe::PiecewiseConstantSchedule;

/// `step` counts from 0, the warm-up included.
pub(super) fn factor(config: &PiecewiseConstantSchedule, step: u64) -> f64 {
    let piece = config.boundaries.partition_point(|&boundary| boundary <= step);
    // The configuration has one more factor than boundaries.
    config.factors.get(piece).copied().unwrap_or(1.0).max(config.min_ratio)
}
