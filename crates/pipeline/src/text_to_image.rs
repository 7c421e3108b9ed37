//! From prompts to pictures with classifier-free guidance, as diffusers' `StableDiffusionPipeline` and `StableDiffusionXLPipeline` do it.

use crate::error::{Error, Result};
use crate::image_to_image::{Beginning, InitImage};
use image::RgbImage;
use sdtrain_diffusion::{Sampler, SchedulerConfig, sampler};
use sdtrain_model::unet::repeated_timestep;
use sdtrain_model::{PictureSizes, PromptReading, StableDiffusion};
use sdtrain_recipe::SamplerName;
use std::sync::{Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// What is asked of the pipeline.
#[derive(Debug, Clone)]
pub struct Request {
    /// One picture for each.
    pub prompts: Vec<String>,
    /// What no picture should show; empty for nothing.
    pub negative: String,
    /// Denoising steps.
    pub steps: usize,
    /// Strength of the guidance; at 1 or below there is none, and `negative` is not used.
    pub guidance: f64,
    /// Picture k starts from the noise of `seed + k`.
    pub seed: u64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The sampler; the model's own without.
    pub sampler: Option<SamplerName>,
    /// How `prompts` and `negative` are read.
    pub prompt_reading: PromptReading,
    /// The picture to start from. None: noise alone; a UNet for inpainting is then given a mask that covers everything.
    pub init_image: Option<InitImage>,
}

/// Makes the pictures, as many at once as [`pictures_at_once`] says. The same model, request and thread count give the same
/// bits; each picture equals the one made alone but for rounding.
pub fn text_to_image(model: &StableDiffusion, request: &Request) -> Result<Vec<RgbImage>> {
    text_to_image_while(model, request, &|| true)
}

/// The same while `goes_on`, which is asked before each denoising step.
///
/// # Errors
/// [`Error::BrokenOff`] where it does not go on any more.
pub fn text_to_image_while(
    model: &StableDiffusion,
    request: &Request,
    goes_on: &dyn Fn() -> bool,
) -> Result<Vec<RgbImage>> {
    let at_once = pictures_at_once(request.width, request.height);
    let mut pictures = Vec::with_capacity(request.prompts.len());
    for prompts in request.prompts.chunks(at_once) {
        let seed = request.seed + pictures.len() as u64;
        let request = Request { prompts: prompts.to_vec(), seed, ..request.clone() };
        let latents = denoised_while(model, &request, goes_on)?;
        let pixels = model.decode_latents(&latents)?;
        for index in 0..prompts.len() {
            pictures.push(to_image(&pixels.get(index as i64), seed + index as u64)?);
        }
    }
    Ok(pictures)
}

/// Pictures of this size that keep a device busy and fit into its memory: four of 512 × 512 pixels.
pub fn pictures_at_once(width: u32, height: u32) -> usize {
    const PIXELS: u64 = 4 * 512 * 512;
    (PIXELS / (u64::from(width) * u64::from(height)).max(1)).clamp(1, 16) as usize
}

/// The sampler of that name, or the model's own, over the model's schedule. Fails where it cannot take so many steps.
pub fn sampler_for(scheduler: &SchedulerConfig, name: Option<SamplerName>, steps: usize) -> Result<Box<dyn Sampler>> {
    let config = scheduler.for_stable_diffusion();
    Ok(match name {
        Some(name) => sampler::build(name, &config, steps)?,
        None => sampler::from_class(&config, steps)?,
    })
}

/// The pictures before decoding, all in one batch: scaled latents `[pictures, channels, height/f, width/f]`, f32.
pub fn denoised_latents(model: &StableDiffusion, request: &Request) -> Result<Tensor> {
    denoised_while(model, request, &|| true)
}

fn denoised_while(model: &StableDiffusion, request: &Request, goes_on: &dyn Fn() -> bool) -> Result<Tensor> {
    let factor = model.downscale_factor();
    let (width, height) = (request.width as usize, request.height as usize);
    if width == 0 || height == 0 || !width.is_multiple_of(factor) || !height.is_multiple_of(factor) {
        return Err(Error::Size { width: request.width, height: request.height, step: factor });
    }
    let mut sampler = sampler_for(&model.scheduler, request.sampler, request.steps)?;
    let count = request.prompts.len();
    let shape = [1, model.unet.config().out_channels, (height / factor) as i64, (width / factor) as i64];
    let calls = sampler.timesteps().len();
    let first_call = request.init_image.as_ref().map_or(Ok(0), |init| init.first_call(&*sampler, request.steps))?;
    let mut noise = SeededNoise::draw(request.seed, count, &shape, MOST_FIRST_DRAWS + calls - first_call);
    let guided = request.guidance > 1.0;
    let mut prompts = request.prompts.clone();
    if guided {
        prompts.splice(0..0, std::iter::repeat_n(request.negative.clone(), count));
    }
    let mut text = model.encode_prompts(&prompts, &request.prompt_reading)?;
    if guided && request.negative.is_empty() && model.zeros_for_empty_prompt {
        text = text.map(|states| {
            let of_prompts = states.f_narrow(0, count as i64, count as i64)?;
            Tensor::f_cat(&[of_prompts.f_zeros_like()?, of_prompts], 0)
        })?;
    }
    let sizes = vec![PictureSizes::whole(width, height); count];
    let mut time_ids = model.time_ids(&sizes)?;
    if guided && let (Some(negative), Some(positive)) = (model.negative_time_ids(&sizes)?, &time_ids) {
        time_ids = Some(Tensor::f_cat(&[&negative, positive], 0)?);
    }
    let conditions = model.conditions(&text, time_ids.as_ref());
    let Beginning { mut latents, painting } = Beginning::of(model, request, &*sampler, first_call, &mut noise)?;
    for (index, timestep) in sampler.timesteps().to_vec().into_iter().enumerate().skip(first_call) {
        if !goes_on() {
            return Err(Error::BrokenOff);
        }
        let step = sdtrain_torch::catch(|| {
            tch::no_grad(|| {
                let input = painting.input(sampler.scale_model_input(&latents, index), model.compute);
                let input = if guided { Tensor::cat(&[&input, &input], 0) } else { input };
                let batch = input.size()[0];
                let timesteps = repeated_timestep(timestep, batch, model.device);
                let mut prediction = model.unet.forward(&input, &timesteps, &conditions, false).to_kind(Kind::Float);
                if guided {
                    let halves = prediction.chunk(2, 0);
                    let [unconditional, conditional] = &halves[..] else { unreachable!("chunk(2) gives two") };
                    prediction = unconditional + request.guidance * (conditional - unconditional);
                }
                let stepped = sampler.step(&prediction, index, &latents, &mut |_| noise.next().to_device(model.device));
                painting.after_step(stepped, &*sampler, index + 1)
            })
        });
        latents = step?;
    }
    Ok(latents)
}

/// Draws before the first call of the sampler, at most: see [`Beginning::of`].
const MOST_FIRST_DRAWS: usize = 3;

/// The noise of each picture from torch's CPU generator seeded for it: first what it begins with, then one draw for
/// each call of the sampler, so that a picture does not depend on the others of its batch.
pub(crate) struct SeededNoise {
    draws: std::vec::IntoIter<Tensor>,
}

impl SeededNoise {
    fn draw(seed: u64, count: usize, shape: &[i64], draws: usize) -> SeededNoise {
        // The process has one CPU generator: nobody else may seed it or draw from it meanwhile.
        static GENERATOR: Mutex<()> = Mutex::new(());
        let _guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_picture: Vec<Vec<Tensor>> = Vec::with_capacity(count);
        for k in 0..count {
            tch::manual_seed(seed.wrapping_add(k as u64) as i64);
            of_picture.push((0..draws).map(|_| Tensor::randn(shape, (Kind::Float, Device::Cpu))).collect());
        }
        let draws: Vec<Tensor> =
            (0..draws).map(|i| Tensor::cat(&of_picture.iter().map(|p| &p[i]).collect::<Vec<_>>(), 0)).collect();
        SeededNoise { draws: draws.into_iter() }
    }

    pub(crate) fn next(&mut self) -> Tensor {
        self.draws.next().expect("a sampler asks for noise at most once a call")
    }
}

/// `[3, height, width]` in -1…1 → 8 bits, rounded as numpy rounds (half to even).
fn to_image(pixels: &Tensor, seed: u64) -> Result<RgbImage> {
    let size = pixels.size();
    let bytes = sdtrain_torch::catch(|| {
        let unit = pixels / 2.0 + 0.5;
        let finite = unit.isfinite().all().int64_value(&[]) == 1;
        let bytes = (unit.clamp(0.0, 1.0) * 255.0).round().to_kind(Kind::Uint8).permute([1, 2, 0]).contiguous();
        finite.then(|| Vec::<u8>::try_from(bytes.flatten(0, -1)))
    })?;
    let bytes = bytes.ok_or(Error::NotFinite { seed })?.map_err(sdtrain_torch::Error::from)?;
    Ok(RgbImage::from_raw(size[2] as u32, size[1] as u32, bytes).expect("three bytes a pixel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_pictures_come_in_smaller_batches() {
        assert_eq!([96, 256, 512, 1024, 2048].map(|side| pictures_at_once(side, side)), [16, 16, 4, 1, 1]);
    }
}
