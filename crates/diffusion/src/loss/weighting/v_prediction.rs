//! The loss of one prediction type on the scale of the other: the squared error of v is (SNR + 1)/SNR of that of epsilon
//! (Salimans & Ho 2022, arXiv:2202.00512, §4).

use tch::Tensor;

use super::LARGEST_SNR;

/// SNR/(SNR + 1), the SNR cut off at 1000, which makes a loss of v one of epsilon: `[batch]`. 0 at SNR 0.
pub fn epsilon_like(snr: &Tensor) -> Tensor {
    let snr = snr.clamp_max(LARGEST_SNR);
    &snr / (&snr + 1.0)
}

/// 1 + factor · (SNR + 1)/SNR, the SNR cut off at 1000, which adds `factor` times the loss of v to one of epsilon: `[batch]`.
/// Infinite at SNR 0, where epsilon is not trained.
pub fn velocity_like(snr: &Tensor, factor: f64) -> Tensor {
    epsilon_like(snr).reciprocal() * factor + 1.0
}
