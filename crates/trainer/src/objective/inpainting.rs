//! Painting into pictures: denoising by a UNet that is also shown a mask, and what of the image the mask leaves.
//!
//! ```text
//! L = ‖ f_θ([zₜ, m, E(x · (1 − m))], t, caption) − y ‖²
//! ```
//!
//! with the mask m at the latents' size (1 where it covers), the encoder E, and zₜ and y of the whole image, as Stable Diffusion's models for
//! inpainting were trained (Rombach et al. 2022, arXiv:2112.10752, section 4.5; `conditioning_key: hybrid` of CompVis' configurations).

use super::Objective;
use super::text_to_image::TextToImage;
use crate::batches::Batch;
use crate::error::Result;
use crate::inputs::StepInputs;
use sdtrain_data_loader::DataSet;
use sdtrain_diffusion::{noise, random_mask};
use sdtrain_model::{Frozen, StableDiffusion};
use sdtrain_random::Purpose;
use sdtrain_recipe::{GradientCheckpointing, InpaintingConfig, MaskSource, TrainConfig};
use std::sync::Arc;
use std::time::Duration;
use tch::Tensor;

/// Denoise the whole image, seeing a part of it.
pub struct Inpainting {
    denoising: TextToImage,
    seed: u64,
    config: InpaintingConfig,
}

impl Inpainting {
    /// For a run of `config` on `data`. Latents of the images may be kept; those of the covered images are encoded in each step, since each
    /// epoch covers something else.
    pub fn new(config: &TrainConfig, model: &StableDiffusion, data: &Arc<DataSet>) -> Result<Inpainting> {
        let denoising = TextToImage::new(config, model, data)?;
        Ok(Inpainting { denoising, seed: config.seed, config: config.inpainting.clone() })
    }

    /// What the UNet is shown besides the noisy latents: `[batch, 5, height/f, width/f]`, f32.
    fn mask_channels(&self, model: &StableDiffusion, batch: &Batch) -> Result<Tensor> {
        let (width, height) = batch.size;
        let (keys, factor) = (batch.keys(), model.downscale_factor());
        let masks = match self.config.masks {
            MaskSource::Random => {
                keys.iter().flat_map(|&key| random_mask(&self.config, self.seed, key, batch.size)).collect()
            }
            MaskSource::Files => match &batch.mask {
                Some(masks) => masks.iter().map(|&value| f32::from(u8::from(value >= 0.5))).collect(),
                None => vec![1.0; keys.len() * width * height],
            },
        };
        let (count, width, height) = (keys.len() as i64, width as i64, height as i64);
        let pixels = batch.pixels.as_ref().expect("this objective asks for pixels");
        let pixels = Tensor::f_from_slice(pixels)?.f_reshape([count, 3, height, width])?;
        let mask = Tensor::f_from_slice(&masks)?.f_reshape([count, 1, height, width])?;
        let shape = [model.vae.config().latent_channels, height / factor as i64, width / factor as i64];
        let draw = noise::gaussian(self.seed, Purpose::MaskedLatent, &keys, &shape);
        Ok(model.mask_channels(&pixels, &mask, &draw)?)
    }
}

impl Objective for Inpainting {
    fn prepare(&mut self, model: &StableDiffusion, batch: &Batch, pass: u64) -> Result<StepInputs> {
        let mut inputs = self.denoising.prepare(model, batch, pass)?;
        if let StepInputs::Denoising(inputs) = &mut inputs {
            inputs.mask_channels = Some(self.mask_channels(model, batch)?);
            if self.config.masks == MaskSource::Files {
                inputs.mask = None;
            }
        }
        Ok(inputs)
    }

    fn losses(
        &self,
        model: &StableDiffusion,
        inputs: &StepInputs,
        gradient_checkpointing: GradientCheckpointing,
    ) -> Tensor {
        self.denoising.losses(model, inputs, gradient_checkpointing)
    }

    fn idle(&self) -> &'static [Frozen] {
        match self.denoising.idle().contains(&Frozen::TextEncoder) {
            true => &[Frozen::TextEncoder],
            false => &[],
        }
    }

    fn wants_pixels(&self) -> bool {
        true
    }

    fn wants_masks(&self) -> bool {
        self.denoising.wants_masks()
    }

    fn take_data_wait(&mut self) -> Duration {
        self.denoising.take_data_wait()
    }
}
