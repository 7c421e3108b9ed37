//! Euler's method with fresh noise: each step goes below its target and comes back up with new noise.

use tch::Tensor;

use super::euler::{scaled_to_unit_variance, slope};
use super::sigmas::NoiseLevels;
use super::{Sampler, c, fp32};
use crate::NoiseSchedule;
use crate::SchedulerSettings;

pub struct EulerAncestral {
    settings: SchedulerSettings,
    levels: NoiseLevels,
}

impl EulerAncestral {
    pub fn new(settings: SchedulerSettings, schedule: &NoiseSchedule, steps: usize) -> Self {
        EulerAncestral { levels: NoiseLevels::spaced(&settings, schedule, steps), settings }
    }
}

impl Sampler for EulerAncestral {
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
        noise: &mut dyn FnMut(&[i64]) -> Tensor,
    ) -> Tensor {
        let (sigma, next) = (self.levels.sigmas[step_index], self.levels.sigmas[step_index + 1]);
        let square = |value: f32| value * value;
        let up = (square(next) * (square(sigma) - square(next)) / square(sigma)).sqrt();
        let down = (square(next) - square(up)).sqrt();
        let sample = fp32(sample);
        let slope = slope(self.settings.prediction_type, &fp32(model_output), &sample, sigma, None);
        // Drawn also for the last step, where it counts nothing: the generator's next numbers belong to others.
        let noise = fp32(&noise(&model_output.size()));
        sample + slope * c(down - sigma) + noise * c(up)
    }
}
