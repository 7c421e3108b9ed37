//! Euler's method over noise levels (Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn).

use tch::Tensor;

use super::sigmas::NoiseLevels;
use super::{Sampler, c, fp32};
use crate::SchedulerSettings;
use crate::{NoiseSchedule, PredictionType};

pub struct Euler {
    settings: SchedulerSettings,
    levels: NoiseLevels,
}

impl Euler {
    pub fn new(settings: SchedulerSettings, schedule: &NoiseSchedule, steps: usize) -> Self {
        Euler { levels: NoiseLevels::spaced(&settings, schedule, steps), settings }
    }
}

impl Sampler for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.levels.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.levels.sigmas
    }

    fn init_noise_sigma(&self) -> f64 {
        self.levels.init_noise_sigma(&self.settings)
    }

    fn scale_model_input(&self, sample: &Tensor, step_index: usize) -> Tensor {
        scaled_to_unit_variance(sample, self.levels.sigmas[step_index])
    }

    fn add_noise(&self, latents: &Tensor, noise: &Tensor, step_index: usize) -> Tensor {
        latents + noise * c(self.levels.sigmas[step_index])
    }

    fn step(
        &mut self,
        model_output: &Tensor,
        step_index: usize,
        sample: &Tensor,
        _noise: &mut dyn FnMut(&[i64]) -> Tensor,
    ) -> Tensor {
        let (sigma, next) = (self.levels.sigmas[step_index], self.levels.sigmas[step_index + 1]);
        let sample = fp32(sample);
        let slope = slope(self.settings.prediction_type, &fp32(model_output), &sample, sigma, None);
        sample + slope * c(next - sigma)
    }
}

/// The latents divided by √(σ²+1): samplers over noise levels keep them at variance 1 + σ², networks see variance 1.
pub fn scaled_to_unit_variance(sample: &Tensor, sigma: f32) -> Tensor {
    fp32(sample) / c((sigma * sigma + 1.0).sqrt())
}

/// d latents / d σ: the difference to the predicted image over the noise level.
pub fn slope(
    prediction_type: PredictionType,
    model_output: &Tensor,
    sample: &Tensor,
    sigma: f32,
    clip_sample_range: Option<f64>,
) -> Tensor {
    let variance = sigma * sigma + 1.0;
    let latents = match prediction_type {
        PredictionType::Epsilon => sample - model_output * c(sigma),
        PredictionType::VPrediction => model_output * c(-sigma / variance.sqrt()) + sample / c(variance),
        PredictionType::Sample => model_output.shallow_clone(),
    };
    (sample - super::clipped(latents, clip_sample_range)) / c(sigma)
}
