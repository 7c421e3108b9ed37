//! Cubic timesteps: 1 − u³ or u³ with an even u (Mou et al. 2023, arXiv:2302.08453, §3.4).

use sdtrain_recipe::{CubicEnd, CubicTimesteps};

/// The probability that the cube falls into each of `count` equal parts of 0 to 1.
pub(super) fn weights(config: &CubicTimesteps, count: usize) -> Vec<f64> {
    let edge = |place: usize| (place as f64 / count as f64).cbrt();
    // P(u³ < x) = ∛x.
    let mut weights: Vec<f64> = (0..count).map(|place| edge(place + 1) - edge(place)).collect();
    if config.toward == CubicEnd::Noise {
        weights.reverse();
    }
    weights
}
