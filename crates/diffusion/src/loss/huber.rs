//! Pseudo-Huber distances and their schedules, as kohya's scripts have them (Khrapov et al. 2024, arXiv:2403.16728).

use sdtrain_recipe::{HuberSchedule, LossConfig};
use tch::Tensor;

use crate::NoiseSchedule;

/// 2c·(√(d² + c²) − c) in each place.
pub fn huber(difference: &Tensor, c: &Tensor) -> Tensor {
    smooth_l1(difference, c) * c
}

/// 2·(√(d² + c²) − c) in each place.
pub fn smooth_l1(difference: &Tensor, c: &Tensor) -> Tensor {
    // As 2·d²/(√(d² + c²) + c): the difference of two numbers that are nearly equal would be nothing but rounding for small d.
    let squares = difference.square();
    &squares * 2.0 / ((&squares + c.square()).sqrt() + c)
}

/// c of each example at its timestep t of T, shaped `[batch, 1, …]` to `dimensions` dimensions, fp32.
///
/// The exponential one is huber_c^(t/T); the one by SNR is (1 − huber_c)/(1 + σ)² + huber_c with σ = √((1 − ᾱ)/ᾱ) of the
/// schedule as it is, rescaled or not, and huber_c where ᾱ is 0.
pub fn huber_c(config: &LossConfig, schedule: &NoiseSchedule, timesteps: &Tensor, dimensions: usize) -> Tensor {
    let (huber_c, scale) = (config.effective_huber_c(), config.effective_huber_scale());
    let (signal_rates, noise_rates) = schedule.rates(timesteps, dimensions);
    match config.effective_huber_schedule() {
        HuberSchedule::Constant => signal_rates.full_like(huber_c * scale),
        HuberSchedule::Exponential => {
            let part = timesteps.to_kind(signal_rates.kind()) / schedule.num_train_timesteps() as f64;
            (part * huber_c.ln()).exp().view_as(&signal_rates) * scale
        }
        HuberSchedule::Snr => (noise_rates / signal_rates + 1.0).square().reciprocal() * (1.0 - huber_c) + huber_c,
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn small_differences_are_not_lost_in_rounding() {
        let c = Tensor::from_slice(&[1f32]);
        let small = Tensor::from_slice(&[1e-4f32]);
        // d²/c for d far below c; √(1 + 1e-8) − 1 is 0 in fp32.
        let found = smooth_l1(&small, &c).double_value(&[0]);
        assert!((found - 1e-8).abs() < 1e-13, "{found}");
    }

    #[test]
    fn no_difference_has_no_distance_and_no_gradient() {
        let difference = Tensor::zeros([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let loss = huber(&difference, &Tensor::from_slice(&[0.1f32])).sum(Kind::Float);
        loss.backward();
        assert_eq!((loss.double_value(&[]), difference.grad()), (0.0, Tensor::from_slice(&[0f32, 0.0, 0.0])));
    }
}
