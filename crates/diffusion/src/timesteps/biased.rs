//! Uniform timesteps of which some come more often, as with diffusers' `--timestep_bias_strategy`.

use std::ops::Range;

use sdtrain_recipe::{BiasStrategy, BiasedTimesteps};

/// 1, and `multiplier` for those that are meant.
pub(super) fn weights(config: &BiasedTimesteps, range: Range<i64>) -> Vec<f64> {
    let count = (range.end - range.start).max(0);
    let portion = (config.effective_portion() * count as f64) as i64;
    let meant = match config.strategy {
        BiasStrategy::Earlier => range.start..range.start + portion,
        BiasStrategy::Later => range.end - portion..range.end,
        BiasStrategy::Range => config.begin.map_or(range.start, i64::from)..config.end.map_or(range.end, i64::from),
    };
    range.map(|timestep| if meant.contains(&timestep) { config.multiplier } else { 1.0 }).collect()
}
