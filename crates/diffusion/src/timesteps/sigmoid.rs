//! Timesteps whose frequency rises along a logistic curve, as OneTrainer's "sigmoid" distribution.

use sdtrain_recipe::SigmoidTimesteps;

/// σ(slope · (x − center)) at `count` places x from 0 to 1, both included.
pub(super) fn weights(config: &SigmoidTimesteps, count: usize) -> Vec<f64> {
    let last = count.saturating_sub(1).max(1) as f64;
    (0..count).map(|place| 1.0 / (1.0 + (-config.slope * (place as f64 / last - config.center)).exp())).collect()
}
