//! Denoising of captioned images: the objective that Stable Diffusion was trained with.

use super::Objective;
use crate::batches::Batch;
use crate::error::Result;
use crate::inputs::{DenoisingInputs, Prompts, StepInputs};
use crate::latents::LatentCache;
use crate::prompt_cache::PromptCache;
use sdtrain_data_loader::DataSet;
use sdtrain_diffusion::loss::{min_snr, mse};
use sdtrain_diffusion::{NoiseSchedule, PredictionType, noise, timesteps};
use sdtrain_evaluate::prompt_reading;
use sdtrain_model::{Frozen, PromptReading, StableDiffusion};
use sdtrain_random::Purpose;
use sdtrain_recipe::{LossConfig, NoiseConfig, TrainConfig};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Predict the noise (or the velocity, or the image) from noisy latents and the caption.
pub struct TextToImage {
    seed: u64,
    /// On the model's device.
    schedule: NoiseSchedule,
    /// What the denoiser is asked for.
    prediction_type: PredictionType,
    noise: NoiseConfig,
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

    /// The timesteps that are trained.
    fn timestep_range(&self) -> std::ops::Range<i64> {
        let last = self.schedule.num_train_timesteps() as i64;
        i64::from(self.noise.min_timestep)..self.noise.max_timestep.map_or(last, |t| i64::from(t).min(last))
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
        let shape: Vec<i64> = latents.size()[1..].to_vec();
        let mut drawn = noise::gaussian(self.seed, Purpose::Noise, &keys, &shape);
        if self.noise.offset != 0.0 {
            drawn = noise::offset(&drawn, self.noise.offset, self.seed, &keys);
        }
        let timesteps = timesteps::uniform(self.seed, Purpose::Timestep, &keys, self.timestep_range());
        let timesteps = timesteps.to_device(model.device);
        let mut loss_weights = Tensor::f_from_slice(&batch.loss_weights)?.to_device(model.device);
        if let Some(gamma) = self.loss.min_snr_gamma {
            loss_weights *= min_snr(&self.schedule, self.prediction_type, gamma, &timesteps);
        }
        let prompts = match &mut self.prompts {
            Some(cache) => Prompts::Encoded(cache.encode(model, &batch.captions)?),
            None => Prompts::Tokenized(model.tokenize(&batch.captions, &self.prompt_reading)?),
        };
        let noise = drawn.to_device(model.device);
        Ok(StepInputs::Denoising(DenoisingInputs { latents, noise, timesteps, prompts, loss_weights }))
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
        let noisy_latents = self.schedule.add_noise(latents, noise, timesteps).to_kind(model.compute);
        let prediction = model.unet.forward(&noisy_latents, timesteps, &context, gradient_checkpointing);
        let target = self.prediction_type.target(&self.schedule, latents, noise, timesteps);
        mse(&prediction.to_kind(Kind::Float), &target) * &inputs.loss_weights
    }

    fn idle(&self) -> &'static [Frozen] {
        if self.latents.is_some() { &[Frozen::Vae] } else { &[] }
    }

    fn wants_pixels(&self) -> bool {
        self.latents.is_none()
    }
}
