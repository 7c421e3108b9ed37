//! Heun's method over noise levels: an Euler step, then the mean of the slopes at both its ends.

use tch::Tensor;

use super::euler::{scaled_to_unit_variance, slope};
use super::sigmas::NoiseLevels;
use super::{Sampler, c, fp32};
use crate::NoiseSchedule;
use crate::SchedulerSettings;

pub struct Heun {
    settings: SchedulerSettings,
    levels: NoiseLevels,
    /// Between the two calls of a step: where it began and the slope there.
    first_half: Option<FirstHalf>,
}

struct FirstHalf {
    sample: Tensor,
    slope: Tensor,
    sigma_difference: f32,
}

impl Heun {
    pub fn new(settings: SchedulerSettings, schedule: &NoiseSchedule, steps: usize) -> Self {
        let levels = NoiseLevels::spaced(&settings, schedule, steps);
        // Every inner level is visited twice: as the end of one step and as the beginning of the next.
        let twice = |i: usize, last: usize| if i == 0 || i == last { 1 } else { 2 };
        let repeat_inner = |(i, &sigma): (usize, &f32)| std::iter::repeat_n(sigma, twice(i, steps));
        let repeat_rest = |(i, &timestep): (usize, &f64)| std::iter::repeat_n(timestep, twice(i, usize::MAX));
        let levels = NoiseLevels {
            timesteps: levels.timesteps.iter().enumerate().flat_map(repeat_rest).collect(),
            sigmas: levels.sigmas.iter().enumerate().flat_map(repeat_inner).collect(),
        };
        Heun { settings, levels, first_half: None }
    }
}

impl Sampler for Heun {
    fn timesteps(&self) -> &[f64] {
        &self.levels.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.levels.sigmas
    }

    fn init_noise_sigma(&self) -> f64 {
        self.levels.init_noise_sigma(&self.settings)
    }

    fn calls_per_step(&self) -> usize {
        2
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
        let sigma = self.levels.sigmas[step_index];
        let sample = fp32(sample);
        let (prediction_type, clip) = (self.settings.prediction_type, self.settings.clip_sample_range);
        let slope = slope(prediction_type, &fp32(model_output), &sample, sigma, clip);
        match self.first_half.take() {
            None => {
                let sigma_difference = self.levels.sigmas[step_index + 1] - sigma;
                let next = &sample + &slope * c(sigma_difference);
                self.first_half = Some(FirstHalf { sample, slope, sigma_difference });
                next
            }
            Some(first) => first.sample + (first.slope + slope) / 2.0 * c(first.sigma_difference),
        }
    }
}
