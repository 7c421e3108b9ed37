//! What a mask does to the steps, as diffusers' `StableDiffusionInpaintPipeline` has it for both kinds of UNets.

use crate::error::{Error, Result};
use image::GrayImage;
use sdtrain_diffusion::Sampler;
use sdtrain_model::unet_input;
use tch::{Device, Kind, Tensor};

/// Where the picture is painted.
pub(crate) enum Painting {
    /// Everywhere: there is no mask.
    Whole,
    /// By a UNet that knows nothing of masks. After each step everything outside the mask is the picture's own again, with as much noise
    /// as that step leaves.
    Blended {
        /// 1 where it is painted, f32 `[1, 1, height/f, width/f]`.
        mask: Tensor,
        /// The picture's latents, `[pictures, channels, height/f, width/f]`.
        original: Tensor,
        /// The noise that the latents began with; same shape.
        noise: Tensor,
    },
    /// By a UNet for inpainting, which sees the mask and the rest of the picture: `[pictures, 5, height/f, width/f]`.
    Conditioned(Tensor),
}

impl Painting {
    /// What the UNet takes in, in the type `kind`: `latents`, and what it is told of the picture behind them.
    pub fn input(&self, latents: Tensor, kind: Kind) -> Tensor {
        match self {
            Painting::Conditioned(channels) => unet_input(latents, Some(channels), kind),
            Painting::Whole | Painting::Blended { .. } => unet_input(latents, None, kind),
        }
    }

    /// The latents after a step of `sampler` whose next call is `next_call`, behind the last one where there is none.
    pub fn after_step(&self, latents: Tensor, sampler: &dyn Sampler, next_call: usize) -> Tensor {
        let Painting::Blended { mask, original, noise } = self else { return latents };
        let original = match next_call < sampler.timesteps().len() {
            true => sampler.add_noise(original, noise, next_call),
            false => original.shallow_clone(),
        };
        (1.0 - mask) * original + mask * latents
    }
}

/// 1 where the mask is white, more light than dark, and else 0: f32 `[1, 1, height, width]` in host memory.
///
/// # Errors
/// Where nothing of it is white.
pub(crate) fn mask_tensor(mask: &GrayImage) -> Result<Tensor> {
    let white: Vec<f32> = mask.as_raw().iter().map(|&value| f32::from(u8::from(value >= 128))).collect();
    if !white.contains(&1.0) {
        return Err(Error::NothingMasked { reason: "it is dark everywhere, and what is white is painted anew" });
    }
    Ok(Tensor::f_from_slice(&white)?.f_reshape([1, 1, i64::from(mask.height()), i64::from(mask.width())])?)
}

/// The mask of a picture of which nothing stays.
pub(crate) fn everything(width: i64, height: i64) -> Tensor {
    Tensor::ones([1, 1, height, width], (Kind::Float, Device::Cpu))
}
