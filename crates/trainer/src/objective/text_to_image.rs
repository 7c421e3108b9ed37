//! Denoising of captioned images: the objective that Stable Diffusion was trained with.

use super::Objective;
use crate::batches::Batch;
use crate::error::Result;
use crate::inputs::{DenoisingInputs, Prompts, StepInputs};
use sdtrain_data_loader::DataSet;
use sdtrain_diffusion::timesteps::TimestepSampler;
use sdtrain_diffusion::{ExampleKey, NoiseSchedule, PredictionType, loss, noise};
use sdtrain_evaluate::prompt_reading;
use sdtrain_features::{LatentCache, TextCache};
use sdtrain_files::say;
use sdtrain_model::{Frozen, PromptReading, StableDiffusion, unet_input};
use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::{GradientCheckpointing, LossConfig, NoiseConfig, TrainConfig};
use std::sync::Arc;
use std::time::{Duration, Instant};
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
    latents: Option<LatentCache<Arc<DataSet>>>,
    /// States of a frozen text encoder; without, the text encoder is trained and runs inside the step.
    prompts: Option<TextCache>,
    prompt_reading: PromptReading,
    data_wait: Duration,
}

impl TextToImage {
    /// For a run of `config` on `data`, whose images and captions are encoded now if they are to be cached.
    pub fn new(config: &TrainConfig, model: &StableDiffusion, data: &Arc<DataSet>) -> Result<TextToImage> {
        let prompt_reading = prompt_reading(&config.model);
        let schedule = NoiseSchedule::new(&model.scheduler)?.to_device(model.device);
        // A trace brings latents and texts of its own.
        let caches = config.debug.trace_inputs.is_none();
        let latents = match config.data.cache_latents && caches {
            true => Some(LatentCache::fill(model, data.clone(), &config.data, "images", &mut tell_of("images"))?),
            false => None,
        };
        // After the images: captions of those that cannot be read are not asked for.
        let prompts = match (config.trains_text_encoder(), config.data.cache_text_encoder_outputs && caches) {
            (true, _) => None,
            (false, false) => Some(TextCache::of_recent(prompt_reading)),
            (false, true) => {
                let texts = data.captions_of_run()?;
                Some(TextCache::fill(model, texts, prompt_reading, &config.data, &mut tell_of("texts"))?)
            }
        };
        Ok(TextToImage {
            seed: config.seed,
            prediction_type: schedule.prediction_type(),
            timesteps: TimestepSampler::new(&config.timesteps, schedule.num_train_timesteps()),
            schedule,
            noise: config.noise.clone(),
            loss: config.loss.clone(),
            latents,
            prompts,
            prompt_reading,
            data_wait: Duration::ZERO,
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
            (Some(cache), _) => {
                let images: Vec<(usize, bool)> = batch.examples.iter().map(|e| (e.image, e.flipped)).collect();
                Ok(cache.latents(model, &images, &draw)?.to_device(model.device))
            }
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
fn tell_of(what: &'static str) -> impl FnMut(usize, usize) {
    const LONG: usize = 1000;
    move |done, total| {
        let tenth = |done: usize| done * 10 / total.max(1);
        if total >= LONG && tenth(done) > tenth(done.saturating_sub(1)) {
            say!("encoded {done} of {total} {what}");
        }
    }
}

impl Objective for TextToImage {
    fn prepare(&mut self, model: &StableDiffusion, batch: &Batch, _pass: u64) -> Result<StepInputs> {
        let keys = batch.keys();
        let began = Instant::now();
        let latents = self.latents(model, batch)?;
        if self.latents.is_some() {
            self.data_wait += began.elapsed();
        }
        let drawn = noise::draw(&self.noise, self.seed, &keys, &latents);
        let timesteps = self.timesteps.draw(self.seed, &keys).to_device(model.device);
        let mut loss_weights = Tensor::f_from_slice(&batch.loss_weights)?.to_device(model.device);
        if let Some(weights) = loss::weights(&self.loss, &self.schedule, self.prediction_type, &timesteps) {
            loss_weights *= weights;
        }
        let mask = self.masks(batch, &latents, &keys)?;
        let prompts = match &mut self.prompts {
            Some(cache) => {
                let began = Instant::now();
                let states = cache.encode(model, &batch.captions)?;
                if cache.is_complete() {
                    self.data_wait += began.elapsed();
                }
                Prompts::Encoded(states)
            }
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
            time_ids: model.time_ids(&batch.sizes)?,
            loss_weights,
            mask,
            mask_channels: None,
            prior: None,
        }))
    }

    fn losses(
        &self,
        model: &StableDiffusion,
        inputs: &StepInputs,
        gradient_checkpointing: GradientCheckpointing,
    ) -> Tensor {
        let StepInputs::Denoising(inputs) = inputs else { unreachable!("this objective prepares denoising inputs") };
        let text = inputs.prompts.states(model, &self.prompt_reading, gradient_checkpointing.is_everywhere());
        let conditions = model.conditions(&text, inputs.time_ids.as_ref());
        let DenoisingInputs { latents, noise, timesteps, .. } = inputs;
        let input_noise = inputs.input_noise.as_ref().unwrap_or(noise);
        let noisy_latents = self.schedule.add_noise(latents, input_noise, timesteps);
        let input = unet_input(noisy_latents, inputs.mask_channels.as_ref(), model.compute);
        let prediction = model.unet.forward(&input, timesteps, &conditions, gradient_checkpointing);
        let target = self.prediction_type.target(&self.schedule, latents, noise, timesteps);
        let mask = inputs.mask.as_ref();
        loss::example_losses(&self.loss, &self.schedule, &prediction, &target, timesteps, mask) * &inputs.loss_weights
    }

    fn idle(&self) -> &'static [Frozen] {
        match (self.latents.is_some(), self.prompts.as_ref().is_some_and(TextCache::is_complete)) {
            (true, true) => &[Frozen::Vae, Frozen::TextEncoder],
            (true, false) => &[Frozen::Vae],
            (false, true) => &[Frozen::TextEncoder],
            (false, false) => &[],
        }
    }

    fn wants_pixels(&self) -> bool {
        self.latents.is_none()
    }

    fn wants_masks(&self) -> bool {
        true
    }

    fn take_data_wait(&mut self) -> Duration {
        std::mem::take(&mut self.data_wait)
    }
}
