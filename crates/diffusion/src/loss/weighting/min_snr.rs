//! Min-SNR-γ loss weighting: keeps easy timesteps from dominating (Hang et al. 2023, arXiv:2303.09556).
//! Weighs each example by min(SNR, γ)/SNR for epsilon and min(SNR, γ)/(SNR+1) for v.

use tch::Tensor;

use crate::PredictionType;

/// The weight of each example by its SNR: `[batch]`, fp32.
///
/// At SNR 0 the weight is the limit: 1 for epsilon and 0 for v and for the image.
pub fn min_snr(snr: &Tensor, prediction_type: PredictionType, gamma: f64) -> Tensor {
    let bounded = snr.clamp_max(gamma);
    match prediction_type {
        // min(SNR, γ)/SNR without a division of zero by zero.
        PredictionType::Epsilon => (snr.reciprocal() * gamma).clamp_max(1.0),
        PredictionType::VPrediction => bounded / (snr + 1.0),
        PredictionType::Sample => bounded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NoiseSchedule, SchedulerConfig};

    fn weights(schedule: &NoiseSchedule, prediction_type: PredictionType, timesteps: &[i64]) -> Vec<f32> {
        let snr = schedule.snr(&Tensor::from_slice(timesteps));
        Vec::try_from(min_snr(&snr, prediction_type, 5.0)).unwrap()
    }

    #[test]
    fn weights_are_those_of_the_formula() {
        let schedule = NoiseSchedule::new(&SchedulerConfig::stable_diffusion()).unwrap();
        let timesteps = [0, 100, 250, 999];
        // Worked out in fp64, hence the room for fp32's rounding of ᾱ near 1.
        let close = |found: Vec<f32>, expected: [f32; 4]| {
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 2e-4 * e), "{found:?} {expected:?}");
        };
        close(weights(&schedule, PredictionType::Epsilon, &timesteps), [0.004254, 0.591443, 1.0, 1.0]);
        close(weights(&schedule, PredictionType::VPrediction, &timesteps), [0.004250, 0.528883, 0.673793, 0.004660]);
    }

    #[test]
    fn pure_noise_has_a_finite_weight() {
        let schedule = NoiseSchedule::new(&SchedulerConfig::stable_diffusion()).unwrap();
        let schedule = schedule.with_zero_terminal_snr().unwrap();
        assert_eq!(weights(&schedule, PredictionType::Epsilon, &[999]), [1.0]);
        assert_eq!(weights(&schedule, PredictionType::VPrediction, &[999]), [0.0]);
        assert_eq!(weights(&schedule, PredictionType::Sample, &[999]), [0.0]);
    }
}
