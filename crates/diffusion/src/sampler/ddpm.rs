//! Ancestral sampling of DDPM (Ho et al. 2020, arXiv:2006.11239), over any number of steps.

use tch::Tensor;

use super::{Sampler, c, clipped, fp32, predicted_latents, spacing};
use crate::{Error, NoiseSchedule};
use crate::{SchedulerSettings, VarianceType};

pub struct Ddpm {
    settings: SchedulerSettings,
    alphas_cumprod: Vec<f32>,
    timesteps: Vec<f64>,
}

impl Ddpm {
    pub fn new(settings: SchedulerSettings, schedule: &NoiseSchedule, steps: usize) -> Result<Self, Error> {
        Ok(Ddpm {
            timesteps: spacing::whole(&settings, steps)?.into_iter().map(|timestep| timestep as f64).collect(),
            alphas_cumprod: schedule.host_alphas_cumprod().to_vec(),
            settings,
        })
    }

    fn alpha_cumprod(&self, step_index: usize) -> f32 {
        self.timesteps.get(step_index).map_or(1.0, |&timestep| self.alphas_cumprod[timestep as usize])
    }
}

impl Sampler for Ddpm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn add_noise(&self, latents: &Tensor, noise: &Tensor, step_index: usize) -> Tensor {
        let alpha = self.alpha_cumprod(step_index);
        latents * c(alpha.sqrt()) + noise * c((1.0 - alpha).sqrt())
    }

    fn step(
        &mut self,
        model_output: &Tensor,
        step_index: usize,
        sample: &Tensor,
        noise: &mut dyn FnMut(&[i64]) -> Tensor,
    ) -> Tensor {
        let (model_output, sample) = (fp32(model_output), fp32(sample));
        let (alpha, alpha_previous) = (self.alpha_cumprod(step_index), self.alpha_cumprod(step_index + 1));
        let (beta, beta_previous) = (1.0 - alpha, 1.0 - alpha_previous);
        let step_alpha = alpha / alpha_previous;
        let step_beta = 1.0 - step_alpha;

        let prediction_type = self.settings.prediction_type;
        let latents = predicted_latents(prediction_type, &model_output, &sample, alpha.sqrt(), beta.sqrt());
        let latents = clipped(latents, self.settings.clip_sample_range);
        // Formula 7: the mean lies between the predicted image and where we are.
        let mean = latents * c(alpha_previous.sqrt() * step_beta / beta)
            + &sample * c(step_alpha.sqrt() * beta_previous / beta);
        if self.timesteps[step_index] == 0.0 {
            return mean;
        }
        let variance = (beta_previous / beta * step_beta).max(1e-20);
        let deviation = match self.settings.variance_type {
            VarianceType::FixedLarge => step_beta.sqrt(),
            VarianceType::FixedSmallLog => (0.5 * variance.ln()).exp(),
            _ => variance.sqrt(),
        };
        mean + fp32(&noise(&model_output.size())) * c(deviation)
    }
}
