//! Noise levels σ = √((1−ᾱ)/ᾱ) of a schedule, and those that a sampler steps through.

use super::spacing;
use crate::NoiseSchedule;
use crate::{FinalSigmasType, SchedulerSettings, TimestepSpacing};

/// What a sampler over noise levels steps through.
pub struct NoiseLevels {
    /// The timestep of each level but the last.
    pub timesteps: Vec<f64>,
    /// One level more than there are timesteps.
    pub sigmas: Vec<f32>,
}

impl NoiseLevels {
    /// The levels of Euler, LMS and Heun: interpolated at fractional timesteps, or Karras' between their ends.
    pub fn spaced(settings: &SchedulerSettings, schedule: &NoiseSchedule, steps: usize) -> Self {
        let training = TrainingSigmas::new(settings, schedule);
        let timesteps: Vec<f64> = spacing::fractional(settings, steps).into_iter().map(f64::from).collect();
        let sigmas: Vec<f64> = timesteps.iter().map(|&timestep| training.at(timestep)).collect();
        let last = training.last(settings);
        if !settings.use_karras_sigmas {
            return NoiseLevels { timesteps, sigmas: with_last(&sigmas, last) };
        }
        let sigmas = karras(settings, sigmas[0], sigmas[sigmas.len() - 1], steps);
        // Euler, LMS and Heun hand these to the network as fp32.
        let timesteps = sigmas.iter().map(|&sigma| f64::from(training.timestep_of(sigma) as f32)).collect();
        NoiseLevels { timesteps, sigmas: with_last(&sigmas, last) }
    }

    /// What standard normal noise is multiplied by: the `leading` spacing starts below the top of the schedule, where
    /// the signal's own variance counts too.
    pub fn init_noise_sigma(&self, settings: &SchedulerSettings) -> f64 {
        let largest = self.sigmas.iter().copied().fold(0.0, f32::max);
        f64::from(match settings.timestep_spacing {
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => largest,
            TimestepSpacing::Leading => (largest * largest + 1.0).sqrt(),
        })
    }
}

/// σ of every training timestep.
pub struct TrainingSigmas {
    sigmas: Vec<f32>,
    log_sigmas: Vec<f32>,
}

impl TrainingSigmas {
    /// From the schedule's ᾱ.
    pub fn new(settings: &SchedulerSettings, schedule: &NoiseSchedule) -> Self {
        let mut alphas_cumprod = schedule.host_alphas_cumprod().to_vec();
        if settings.rescale_betas_zero_snr
            && let Some(last) = alphas_cumprod.last_mut()
        {
            // Pure noise has no finite σ; diffusers takes the smallest number of fp16 in place of 0.
            *last = 2f32.powi(-24);
        }
        let sigmas: Vec<f32> = alphas_cumprod.into_iter().map(|level| ((1.0 - level) / level).sqrt()).collect();
        let log_sigmas = sigmas.iter().map(|&sigma| f64::from(sigma).ln() as f32).collect();
        TrainingSigmas { sigmas, log_sigmas }
    }

    /// σ at a timestep, between two of them on the line that joins theirs.
    pub fn at(&self, timestep: f64) -> f64 {
        let below = (timestep.max(0.0) as usize).min(self.sigmas.len() - 1);
        let low = f64::from(self.sigmas[below]);
        match self.sigmas.get(below + 1) {
            Some(&high) => low + (f64::from(high) - low) * (timestep - below as f64).max(0.0),
            None => low,
        }
    }

    /// The timestep at which the schedule has this σ, interpolated in log σ.
    pub fn timestep_of(&self, sigma: f64) -> f64 {
        let log_sigma = sigma.max(1e-10).ln();
        let not_above = self.log_sigmas.partition_point(|&level| f64::from(level) <= log_sigma);
        let low = not_above.saturating_sub(1).min(self.log_sigmas.len().saturating_sub(2));
        let high = (low + 1).min(self.log_sigmas.len() - 1);
        let (log_low, log_high) = (self.log_sigmas[low], self.log_sigmas[high]);
        // The width is rounded to fp32 before it divides, as numpy's types make it.
        let weight = ((f64::from(log_low) - log_sigma) / f64::from(log_low - log_high)).clamp(0.0, 1.0);
        (1.0 - weight) * low as f64 + weight * high as f64
    }

    /// Smallest and largest σ of the schedule.
    pub fn ends(&self) -> (f64, f64) {
        (f64::from(self.sigmas[0]), f64::from(self.sigmas[self.sigmas.len() - 1]))
    }

    /// The level after the last step.
    pub fn last(&self, settings: &SchedulerSettings) -> f64 {
        match settings.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => f64::from(self.sigmas[0]),
        }
    }

    /// log(√ᾱ) − log(√(1−ᾱ)) of every training timestep, falling.
    pub fn half_log_snr(&self) -> impl Iterator<Item = f32> {
        self.log_sigmas.iter().map(|log_sigma| -log_sigma)
    }
}

/// Noise levels of Karras et al. 2022, arXiv:2206.00364, equation 5 with ρ = 7: dense where there is little noise.
pub fn karras(settings: &SchedulerSettings, sigma_max: f64, sigma_min: f64, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let low = settings.sigma_min.unwrap_or(sigma_min).powf(1.0 / RHO);
    let high = settings.sigma_max.unwrap_or(sigma_max).powf(1.0 / RHO);
    let stride = 1.0 / (steps.max(2) - 1) as f64;
    let ramp = |i: usize| if i > 0 && i + 1 == steps { 1.0 } else { i as f64 * stride };
    (0..steps).map(|i| (high + ramp(i) * (low - high)).powf(RHO)).collect()
}

/// The levels in fp32 and the one after them.
pub fn with_last(sigmas: &[f64], last: f64) -> Vec<f32> {
    sigmas.iter().chain([&last]).map(|&sigma| sigma as f32).collect()
}

/// √ᾱ and √(1−ᾱ) at a noise level.
pub fn rates(sigma: f32) -> (f32, f32) {
    let signal_rate = 1.0 / (sigma * sigma + 1.0).sqrt();
    (signal_rate, sigma * signal_rate)
}

/// log(√ᾱ/√(1−ᾱ)) at a noise level: infinite where there is no noise.
pub fn half_log_snr(sigma: f32) -> f32 {
    let (signal_rate, noise_rate) = rates(sigma);
    signal_rate.ln() - noise_rate.ln()
}
