//! Denoising of captioned images: the objective that Stable Diffusion was trained with.

use super::Objective;
use crate::batches::Batch;
use crate::error::Result;
use crate::inputs::{DenoisingInputs, Prompts, StepInputs};
use crate::latents::LatentCache;
use crate::prompt_cache::PromptCache;
use sdtrain_data_loader::DataSet;
use sdtrain_diffusion::timesteps::TimestepSampler;
use sdtrain_diffusion::{ExampleKey, NoiseSchedule, PredictionType, loss, noise};
use sdtrain_evaluate::prompt_reading;
use sdtrain_model::{Frozen, PromptReading, StableDiffusion};
use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::{LossConfig, NoiseConfig, TrainConfig};
use std::sync::Arc;
use tch::Tensor;

/// Predict the noise (or the velocity, or the image) from noisy latents and the caption.
pub struct TextToImage {
    seed: u64,
    /// On the model's device.
    schedule: NoiseSchedule,
    /// What the denoiser is asked for.
    prediction_type: PredictionType,
    noise: NoiseConfig,
    timesteps: TimestepSampler,
    loss: LossConfig,
    /// Encoded images; without, each batch is encoded when it is prepared.
    latents: Option<LatentCache>,
    /// States of a frozen text encoder; without, the text encoder is trained and runs inside the step.
    prompts: Option<PromptCache>,
    prompt_reading: PromptReading,
}

impl TextToImage {
    /// For a run of `config` on `data`, whose images are encoded now if they are to be cached.
    pub fn new(config: &TrainConfig, model: &StableDiffusion, data: &Arc<DataSet>) -> Result<TextToImage> {
        let prompt_reading = prompt_reading(&config.model);
        let schedule = NoiseSchedule::new(&model.scheduler)?.to_device(model.device);
        Ok(TextToImage {
            seed: config.seed,
            prediction_type: schedule.prediction_type(),
            timesteps: TimestepSampler::new(&config.timesteps, schedule.num_train_timesteps()),
            schedule,
            noise: config.noise.clone(),
            loss: config.loss.clone(),
            latents: match config.data.cache_latents && config.debug.trace_inputs.is_none() {
                true => Some(LatentCache::fill(model, data, &config.data, &mut tell_of_encoding)?),
                false => None,
            },
            prompts: (!config.trains_text_encoder()).then(|| PromptCache::new(prompt_reading)),
            prompt_reading,
        })
    }

    fn latents(&self, model: &StableDiffusion, batch: &Batch) -> Result<Tensor> {
        let keys = batch.keys();
        let channels = model.vae.config().latent_channels;
        let factor = model.downscale_factor();
        let (width, height) = batch.size;
        let shape = [channels, (height / factor) as i64, (width / factor) as i64];
        let draw = noise::gaussian(self.seed, Purpose::Latent, &keys, &shape);
        match (&self.latents, &batch.pixels) {
            (Some(cache), _) => Ok(cache.latents(model, &batch.examples, &draw)?.to_device(model.device)),
            (None, Some(pixels)) => {
                let shape = [batch.examples.len() as i64, 3, height as i64, width as i64];
                let pixels = Tensor::f_from_slice(pixels)?.f_reshape(shape)?;
                Ok(model.encode_images(&pixels, Some(&draw))?)
            }
            (None, None) => unreachable!("batches carry pixels unless latents are cached"),
        }
    }

    /// The masks of a batch at the size of its latents, `[batch, 1, height, width]`; those of images that are trained whole this time
    /// are 1 everywhere. None where no image of the batch has one.
    fn masks(&self, batch: &Batch, latents: &Tensor, keys: &[ExampleKey]) -> Result<Option<Tensor>> {
        let Some(mask) = &batch.mask else { return Ok(None) };
        let (width, height) = batch.size;
        let shape = [batch.examples.len() as i64, 1, height as i64, width as i64];
        let mask =
            loss::latent_mask(&Tensor::f_from_slice(mask)?.f_reshape(shape)?, latents.size()[2], latents.size()[3]);
        for (row, key) in (0i64..).zip(keys) {
            let mut draw = Stream::new(self.seed, Purpose::Unmasked, key.epoch, key.example);
            if draw.uniform() < self.loss.unmasked_probability {
                let _ = mask.f_narrow(0, row, 1)?.f_fill_(1.0)?;
            }
        }
        Ok(Some(mask.to_device(latents.device())))
    }
}

/// A line at every tenth of a long encoding; a short one is over before anybody wonders.
fn tell_of_encoding(done: usize, total: usize) {
    const LONG: usize = 1000;
    let tenth = |images: usize| images * 10 / total.max(1);
    if total >= LONG && tenth(done) > tenth(done.saturating_sub(1)) {
        eprintln!("encoded {done} of {total} images");
    }
}

impl Objective for TextToImage {
    fn prepare(&mut self, model: &StableDiffusion, batch: &Batch, _pass: u64) -> Result<StepInputs> {
        let keys = batch.keys();
        let latents = self.latents(model, batch)?;
        let drawn = noise::draw(&self.noise, self.seed, &keys, &latents);
        let timesteps = self.timesteps.draw(self.seed, &keys).to_device(model.device);
        let mut loss_weights = Tensor::f_from_slice(&batch.loss_weights)?.to_device(model.device);
        if let Some(weights) = loss::weights(&self.loss, &self.schedule, self.prediction_type, &timesteps) {
            loss_weights *= weights;
        }
        let mask = self.masks(batch, &latents, &keys)?;
        let prompts = match &mut self.prompts {
            Some(cache) => Prompts::Encoded(cache.encode(model, &batch.captions)?),
            None => Prompts::Tokenized(model.tokenize(&batch.captions, &self.prompt_reading)?),
        };
        let noise = drawn.noise.to_device(model.device);
        let input_noise = drawn.input_noise.map(|noise| noise.to_device(model.device));
        Ok(StepInputs::Denoising(DenoisingInputs {
            latents,
            noise,
            input_noise,
            timesteps,
            prompts,
            loss_weights,
            mask,
        }))
    }

    fn losses(&self, model: &StableDiffusion, inputs: &StepInputs, gradient_checkpointing: bool) -> Tensor {
        let StepInputs::Denoising(inputs) = inputs else { unreachable!("this objective prepares denoising inputs") };
        let context = match &inputs.prompts {
            Prompts::Encoded(states) => states.shallow_clone(),
            Prompts::Tokenized(prompts) => {
                model.text_states(prompts, self.prompt_reading.clip_skip, gradient_checkpointing)
            }
        };
        let DenoisingInputs { latents, noise, timesteps, .. } = inputs;
        let input_noise = inputs.input_noise.as_ref().unwrap_or(noise);
        let noisy_latents = self.schedule.add_noise(latents, input_noise, timesteps).to_kind(model.compute);
        let prediction = model.unet.forward(&noisy_latents, timesteps, &context, gradient_checkpointing);
        let target = self.prediction_type.target(&self.schedule, latents, noise, timesteps);
        let mask = inputs.mask.as_ref();
        loss::example_losses(&self.loss, &self.schedule, &prediction, &target, timesteps, mask) * &inputs.loss_weights
    }

    fn idle(&self) -> &'static [Frozen] {
        if self.latents.is_some() { &[Frozen::Vae] } else { &[] }
    }

    fn wants_pixels(&self) -> bool {
        self.latents.is_none()
    }

    fn wants_masks(&self) -> bool {
        true
    }
}
