//! P2 weighting: timesteps at which only details are left to clean up count less (Choi et al. 2022, arXiv:2204.00227).

use tch::Tensor;

use crate::PredictionType;

/// (1 + SNR)^−γ for epsilon, equation 8 of the paper with k = 1, and (2 + SNR)^−γ for v, as OneTrainer has it: `[batch]`.
pub fn p2(snr: &Tensor, prediction_type: PredictionType, gamma: f64) -> Tensor {
    let k = match prediction_type {
        PredictionType::VPrediction => 2.0,
        PredictionType::Epsilon | PredictionType::Sample => 1.0,
    };
    (snr + k).pow_tensor_scalar(-gamma)
}
