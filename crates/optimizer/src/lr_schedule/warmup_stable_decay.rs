//! A plateau with a fall at the end (Hägele et al. 2024, arXiv:2405.18392; transformers: `get_wsd_schedule`).

use sdtrain_recipe::{DecayType, WarmupStableDecaySchedule};
use std::f64::consts::PI;

/// `step` counts from 0, the warm-up included.
pub(super) fn factor(config: &WarmupStableDecaySchedule, step: u64, total_steps: u64) -> f64 {
    let decay_steps = config.decay_steps(total_steps);
    let start = total_steps.saturating_sub(decay_steps);
    if step < start {
        return 1.0;
    }
    let progress = ((step - start) as f64 / decay_steps.max(1) as f64).min(1.0);
    match config.decay_type {
        DecayType::Linear => 1.0 - progress,
        DecayType::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        DecayType::OneMinusSqrt => 1.0 - progress.sqrt(),
    }
}
