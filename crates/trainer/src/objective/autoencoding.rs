//! Pixels through the autoencoder and back (Rombach et al. 2022, arXiv:2112.10752, §3.1, without the adversary).

use super::Objective;
use crate::batches::Batch;
use crate::error::Result;
use crate::inputs::{AutoencodingInputs, StepInputs};
use sdtrain_diffusion::noise;
use sdtrain_model::{Lpips, StableDiffusion};
use sdtrain_random::Purpose;
use sdtrain_recipe::{GradientCheckpointing, TrainConfig, VaeConfig};
use tch::{Device, Kind, Tensor};

/// Reconstruct the image; keep the latents near a standard normal distribution.
pub struct Autoencoding {
    seed: u64,
    /// Weights of the terms.
    config: VaeConfig,
    /// Where its weight is not 0.
    lpips: Option<Lpips>,
}

impl Autoencoding {
    /// What `[vae_objective]` asks for.
    pub fn new(config: &TrainConfig, device: Device) -> Result<Autoencoding> {
        let objective = config.vae_objective.clone();
        let network = objective.lpips.as_deref().filter(|_| objective.lpips_weight != 0.0);
        let lpips = network.map(|path| Lpips::open(path, device)).transpose()?;
        Ok(Autoencoding { seed: config.seed, config: objective, lpips })
    }
}

impl Objective for Autoencoding {
    fn prepare(&mut self, model: &StableDiffusion, batch: &Batch, _pass: u64) -> Result<StepInputs> {
        let (width, height) = batch.size;
        let factor = model.downscale_factor();
        let count = batch.examples.len() as i64;
        let pixels = batch.pixels.as_ref().expect("this objective asks for pixels");
        let pixels = Tensor::f_from_slice(pixels)?.f_reshape([count, 3, height as i64, width as i64])?;
        let shape = [model.vae.config().latent_channels, (height / factor) as i64, (width / factor) as i64];
        let noise = noise::gaussian(self.seed, Purpose::Latent, &batch.keys(), &shape);
        let [pixels, noise] = [pixels, noise].map(|t| t.to_device(model.device));
        Ok(StepInputs::Autoencoding(AutoencodingInputs { pixels, noise }))
    }

    fn losses(
        &self,
        model: &StableDiffusion,
        inputs: &StepInputs,
        _gradient_checkpointing: GradientCheckpointing,
    ) -> Tensor {
        let StepInputs::Autoencoding(AutoencodingInputs { pixels, noise }) = inputs else {
            unreachable!("this objective prepares autoencoding inputs")
        };
        let distribution = model.vae.encode(&pixels.to_kind(model.compute));
        let decoded = model.vae.decode(&distribution.sample(&noise.to_kind(model.compute))).to_kind(Kind::Float);
        let difference = &decoded - pixels;
        let mut losses = mean_of_each(&difference.abs()) * self.config.l1_weight;
        if self.config.l2_weight != 0.0 {
            losses += mean_of_each(&difference.square()) * self.config.l2_weight;
        }
        if self.config.gradient_weight != 0.0 {
            // |∇decoded - ∇pixels| = |∇(decoded - pixels)|
            let [across, down] =
                [3, 2].map(|dim| mean_of_each(&difference.diff(1, dim, None::<&Tensor>, None::<&Tensor>).abs()));
            losses += (across + down) * self.config.gradient_weight;
        }
        if let Some(lpips) = &self.lpips {
            losses += lpips.distance(&decoded, pixels) * self.config.lpips_weight;
        }
        if self.config.kl_weight != 0.0 {
            let divergence = distribution.kl_divergence();
            losses += divergence.sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float) * self.config.kl_weight;
        }
        losses
    }

    fn wants_pixels(&self) -> bool {
        true
    }
}

fn mean_of_each(tensor: &Tensor) -> Tensor {
    tensor.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float)
}
