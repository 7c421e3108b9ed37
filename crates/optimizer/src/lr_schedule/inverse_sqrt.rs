//! One over a root (transformers: `get_inverse_sqrt_schedule`).

use sdtrain_recipe::InverseSqrtSchedule;

/// `after_warmup` counts the steps since the warm-up.
pub(super) fn factor(config: &InverseSqrtSchedule, after_warmup: u64, warmup_steps: u64) -> f64 {
    let timescale = config.timescale(warmup_steps) as f64;
    ((after_warmup as f64 + timescale) / timescale).sqrt().recip()
}
