//! DDIM without noise (Song et al. 2020, arXiv:2010.02502): to the predicted image and back along the predicted noise.

use tch::Tensor;

use super::{Sampler, c, clipped, fp32, predicted_latents, predicted_noise, spacing};
use crate::SchedulerSettings;
use crate::{Error, NoiseSchedule};

pub struct Ddim {
    settings: SchedulerSettings,
    alphas_cumprod: Vec<f32>,
    final_alpha_cumprod: f32,
    timesteps: Vec<f64>,
    stride: i64,
}

impl Ddim {
    pub fn new(settings: SchedulerSettings, schedule: &NoiseSchedule, steps: usize) -> Result<Self, Error> {
        let alphas_cumprod = schedule.host_alphas_cumprod().to_vec();
        Ok(Ddim {
            final_alpha_cumprod: if settings.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] },
            timesteps: spacing::whole(&settings, steps)?.into_iter().map(|timestep| timestep as f64).collect(),
            stride: (settings.num_train_timesteps / steps) as i64,
            alphas_cumprod,
            settings,
        })
    }
}

impl Sampler for Ddim {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn add_noise(&self, latents: &Tensor, noise: &Tensor, step_index: usize) -> Tensor {
        let alpha = self.alphas_cumprod[self.timesteps[step_index] as usize];
        latents * c(alpha.sqrt()) + noise * c((1.0 - alpha).sqrt())
    }

    fn step(
        &mut self,
        model_output: &Tensor,
        step_index: usize,
        sample: &Tensor,
        _noise: &mut dyn FnMut(&[i64]) -> Tensor,
    ) -> Tensor {
        let (model_output, sample) = (fp32(model_output), fp32(sample));
        let timestep = self.timesteps[step_index] as i64;
        let previous = timestep - self.stride;
        let alpha = self.alphas_cumprod[timestep as usize];
        let alpha_previous = match usize::try_from(previous) {
            Ok(previous) => self.alphas_cumprod[previous],
            Err(_) => self.final_alpha_cumprod,
        };
        let (signal_rate, noise_rate) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        let prediction_type = self.settings.prediction_type;
        let latents = predicted_latents(prediction_type, &model_output, &sample, signal_rate, noise_rate);
        let latents = clipped(latents, self.settings.clip_sample_range);
        // The direction keeps the noise as it was predicted, also where the image was clipped.
        let direction = predicted_noise(prediction_type, &model_output, &sample, signal_rate, noise_rate);
        latents * c(alpha_previous.sqrt()) + direction * c((1.0 - alpha_previous).sqrt())
    }
}
