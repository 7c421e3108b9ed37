//! A straight line (diffusers: `get_linear_schedule_with_warmup`).

/// `progress` goes from 0 to 1.
pub(super) fn factor(progress: f64) -> f64 {
    (1.0 - progress).max(0.0)
}
