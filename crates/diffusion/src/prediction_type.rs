//! What the network is asked for: the noise, the velocity or the image itself.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::NoiseSchedule;

/// What a network predicts from noisy latents; `prediction_type` in a `scheduler_config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise: SD1, SD2 base, SDXL.
    #[default]
    Epsilon,
    /// √ᾱ·noise − √(1−ᾱ)·latents: SD2 at 768 pixels (Salimans & Ho 2022, arXiv:2202.00512).
    VPrediction,
    /// The latents without noise.
    #[serde(alias = "original_sample")]
    Sample,
}

impl PredictionType {
    /// diffusers' name.
    pub fn name(self) -> &'static str {
        match self {
            PredictionType::Epsilon => "epsilon",
            PredictionType::VPrediction => "v_prediction",
            PredictionType::Sample => "sample",
        }
    }

    /// What the network should have said.
    ///
    /// # Shapes
    /// latents, noise: `[batch, channels, height, width]`; timesteps: `[batch]`, integers, on the same device
    pub fn target(self, schedule: &NoiseSchedule, latents: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Tensor {
        match self {
            PredictionType::Epsilon => noise.shallow_clone(),
            PredictionType::VPrediction => schedule.velocity(latents, noise, timesteps),
            PredictionType::Sample => latents.shallow_clone(),
        }
    }

    /// The latents without noise that a prediction amounts to.
    pub fn predicted_latents(
        self,
        schedule: &NoiseSchedule,
        prediction: &Tensor,
        noisy_latents: &Tensor,
        timesteps: &Tensor,
    ) -> Tensor {
        let (signal, noise) = schedule.rates(timesteps, noisy_latents.dim());
        match self {
            PredictionType::Epsilon => (noisy_latents - noise * prediction) / signal,
            PredictionType::VPrediction => signal * noisy_latents - noise * prediction,
            PredictionType::Sample => prediction.shallow_clone(),
        }
    }

    /// The noise that a prediction amounts to.
    pub fn predicted_noise(
        self,
        schedule: &NoiseSchedule,
        prediction: &Tensor,
        noisy_latents: &Tensor,
        timesteps: &Tensor,
    ) -> Tensor {
        let (signal, noise) = schedule.rates(timesteps, noisy_latents.dim());
        match self {
            PredictionType::Epsilon => prediction.shallow_clone(),
            PredictionType::VPrediction => signal * prediction + noise * noisy_latents,
            PredictionType::Sample => (noisy_latents - signal * prediction) / noise,
        }
    }
}

impl From<sdtrain_recipe::PredictionType> for PredictionType {
    fn from(asked: sdtrain_recipe::PredictionType) -> Self {
        match asked {
            sdtrain_recipe::PredictionType::Epsilon => PredictionType::Epsilon,
            sdtrain_recipe::PredictionType::VPrediction => PredictionType::VPrediction,
            sdtrain_recipe::PredictionType::Sample => PredictionType::Sample,
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::SchedulerConfig;

    #[test]
    fn latents_and_noise_come_back_from_a_perfect_prediction() {
        let schedule = NoiseSchedule::new(&SchedulerConfig::stable_diffusion()).unwrap();
        let latents = Tensor::linspace(-2.0, 2.0, 16, (Kind::Float, Device::Cpu)).view([2, 2, 2, 2]);
        let noise = latents.sin() * 1.5;
        let timesteps = Tensor::from_slice(&[20i64, 980]);
        let noisy = schedule.add_noise(&latents, &noise, &timesteps);
        for prediction_type in [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::Sample] {
            let prediction = prediction_type.target(&schedule, &latents, &noise, &timesteps);
            let far = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
            let back = prediction_type.predicted_latents(&schedule, &prediction, &noisy, &timesteps);
            // Dividing by √ᾱ = 0.07 at timestep 980 magnifies fp32's rounding.
            assert!(far(&back, &latents) < 1e-5, "{prediction_type:?}: {}", far(&back, &latents));
            let back = prediction_type.predicted_noise(&schedule, &prediction, &noisy, &timesteps);
            assert!(far(&back, &noise) < 1e-5, "{prediction_type:?}: {}", far(&back, &noise));
        }
    }
}
