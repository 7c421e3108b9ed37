//! A picture to start from, as diffusers' `StableDiffusionImg2ImgPipeline` and its inpainting pipelines take one: encoded, and with as much
//! noise as the strength asks for.

use crate::error::{Error, Result};
use crate::inpaint::{Painting, everything, mask_tensor};
use crate::text_to_image::{Request, SeededNoise};
use image::{GrayImage, RgbImage};
use sdtrain_diffusion::Sampler;
use sdtrain_model::{StableDiffusion, nearest_latent_mask};
use sdtrain_recipe::steps_of_strength;
use tch::{Device, Kind, Tensor};

/// A picture to start from, and where it is painted anew.
#[derive(Debug, Clone)]
pub struct InitImage {
    /// Of the size that is asked for.
    pub picture: RgbImage,
    /// How much of the steps is walked, greater than 0, at most 1: the more, the less of the picture is left.
    pub strength: f64,
    /// White where it is painted anew, black where it stays; of the picture's size. None: it is painted everywhere. A UNet for inpainting
    /// needs one.
    pub mask: Option<GrayImage>,
}

impl InitImage {
    /// Which call of `sampler` comes first, out of those of `steps` steps.
    pub(crate) fn first_call(&self, sampler: &dyn Sampler, steps: usize) -> Result<usize> {
        let strength = self.strength;
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(Error::Strength { strength });
        }
        match steps_of_strength(steps, strength) {
            0 => Err(Error::NoStep { steps, strength }),
            walked => Ok((steps - walked) * sampler.calls_per_step()),
        }
    }

    fn check(&self, width: u32, height: u32) -> Result<()> {
        let sizes =
            [("picture", Some(self.picture.dimensions())), ("mask", self.mask.as_ref().map(GrayImage::dimensions))];
        match sizes.into_iter().find(|(_, found)| found.is_some_and(|found| found != (width, height))) {
            Some((what, found)) => {
                Err(Error::InitSize { what, found: found.unwrap_or_default(), wanted: (width, height) })
            }
            None => Ok(()),
        }
    }
}

/// What the loop over the steps begins with.
pub(crate) struct Beginning {
    /// f32 `[pictures, channels, height/f, width/f]`.
    pub latents: Tensor,
    /// What a mask does to the steps.
    pub painting: Painting,
}

impl Beginning {
    /// Of `request` before call `first_call` of `sampler`. `noise` is asked for draws in the order in which diffusers asks its generator:
    /// for the picture's latents, the noise, the latents of the masked picture.
    pub fn of(
        model: &StableDiffusion,
        request: &Request,
        sampler: &dyn Sampler,
        first_call: usize,
        noise: &mut SeededNoise,
    ) -> Result<Beginning> {
        if request.init_image.is_none() && !model.family.makes_pictures_of_noise() {
            return Err(Error::NeedsPicture { family: model.family.title() });
        }
        model.check_input()?;
        let takes_mask = model.takes_mask();
        let (width, height) = (i64::from(request.width), i64::from(request.height));
        let init = request.init_image.as_ref();
        let (pixels, mask) = match init {
            Some(init) => {
                init.check(request.width, request.height)?;
                (pixels(&init.picture)?, init.mask.as_ref().map(mask_tensor).transpose()?)
            }
            None => {
                let grey = Tensor::zeros([1, 3, height, width], (Kind::Float, Device::Cpu));
                (grey, takes_mask.then(|| everything(width, height)))
            }
        };
        if takes_mask && mask.is_none() {
            return Err(Error::NeedsMask);
        }
        // A picture that is painted anew with full strength begins with noise alone, one without a mask never does.
        let from_noise = init.is_none_or(|init| mask.is_some() && init.strength == 1.0);
        let original = match init {
            Some(_) if !(from_noise && takes_mask) => Some(model.encode_images(&pixels, Some(&noise.next()))?),
            _ => None,
        };
        let drawn = noise.next().to_device(model.device);
        let latents = match &original {
            Some(original) if !from_noise => sampler.add_noise(original, &drawn, first_call),
            _ => &drawn * sampler.init_noise_sigma(),
        };
        let Some(mask) = mask else { return Ok(Beginning { latents, painting: Painting::Whole }) };
        let size = drawn.size();
        let of_latents = nearest_latent_mask(&mask, size[2], size[3])?;
        if of_latents.f_max()?.f_double_value(&[])? == 0.0 {
            return Err(Error::NothingMasked { reason: "its white places are smaller than what a latent spans" });
        }
        // diffusers encodes the masked picture also for a UNet that does not look at it.
        let of_masked = noise.next();
        let painting = match original {
            Some(original) if !takes_mask => {
                Painting::Blended { mask: of_latents.to_device(model.device), original, noise: drawn }
            }
            _ => Painting::Conditioned(model.mask_channels(&pixels, &mask, &of_masked)?),
        };
        Ok(Beginning { latents, painting })
    }
}

/// f32 `[1, 3, height, width]` in -1…1, in host memory.
fn pixels(picture: &RgbImage) -> Result<Tensor> {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    let bytes = Tensor::f_from_slice(picture.as_raw())?.f_reshape([1, height, width, 3])?.f_permute([0, 3, 1, 2])?;
    Ok(sdtrain_torch::catch(|| (bytes.to_kind(Kind::Float) / 255.0 * 2.0 - 1.0).contiguous())?)
}
