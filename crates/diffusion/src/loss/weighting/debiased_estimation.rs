//! Debiased estimation: every timestep counts by what it says of the image (Yu et al. 2023, arXiv:2310.08442).

use tch::Tensor;

use super::LARGEST_SNR;
use crate::PredictionType;

/// 1/√SNR for epsilon and 1/(SNR + 1) for v, the SNR cut off at 1000: `[batch]`, as kohya's scripts have it.
///
/// At SNR 0 the weight is infinite for epsilon, which is not trained there, and 1 for v.
pub fn debiased_estimation(snr: &Tensor, prediction_type: PredictionType) -> Tensor {
    let snr = snr.clamp_max(LARGEST_SNR);
    match prediction_type {
        PredictionType::VPrediction => (snr + 1.0).reciprocal(),
        PredictionType::Epsilon | PredictionType::Sample => snr.rsqrt(),
    }
}
