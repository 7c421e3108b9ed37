//! A second noise on top of the first, for the input alone (Ning et al. 2023, arXiv:2301.11706) or for input and target.

use tch::Tensor;

/// noise + strength · draw.
///
/// # Shapes
/// noise, draw: `[batch, channels, height, width]`; strengths: `[batch, 1, 1, 1]`
pub fn perturbed(noise: &Tensor, strengths: &Tensor, draw: &Tensor) -> Tensor {
    noise + draw * strengths
}
