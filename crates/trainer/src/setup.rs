//! Configuration → a run that is ready for its first step, in numbered steps.

use crate::error::{Error, Result};
use crate::latent_cache::LatentCache;
use crate::metadata::RunFacts;
use crate::objective::{Autoencoding, Objective, TextToImage};
use crate::precision::kind_of;
use crate::prompt_cache::PromptCache;
use crate::samples;
use crate::trace::Trace;
use crate::trainable::{Full, LoraTrainable, Trainable, Vae};
use crate::trainer::{Outcome, Trainer};
use crate::validation::Validation;
use sdtrain_data_loader::DataSet;
use sdtrain_diffusion::{NoiseSchedule, PredictionType, SchedulerConfig};
use sdtrain_model::{LoadOptions, StableDiffusion, load};
use sdtrain_optimizer::{GradScaler, build};
use sdtrain_recipe::{DataConfig, FloatType, Init, Method, Subset, TrainConfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tch::Device;

/// What the command line adds to the configuration.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Everything the run writes goes here.
    pub output: PathBuf,
    /// The device's name: `auto`, `cpu`, `cuda:N`.
    pub device: String,
}

/// Trains as `config` says.
pub fn train(config: TrainConfig, options: &RunOptions) -> Result<Outcome> {
    let started = Instant::now();
    // 1 device and threads
    if let Some(threads) = config.train.threads {
        tch::set_num_threads(threads as i32);
    }
    let device = sdtrain_torch::device(&options.device)?;
    // 2 model
    let model = load_model(&config, device)?;
    // 3 data
    let (data, held_out) = open_data(&config, model.bucket_step())?;
    // 4 what is trained
    let rate = config.optimizer.learning_rate();
    let trainable: Box<dyn Trainable> = match config.method {
        Method::Lora => Box::new(LoraTrainable::new(&config.lora, rate, config.seed, &model)?),
        Method::Full => Box::new(Full::new(&config.full, rate, &model)),
        Method::Vae => Box::new(Vae::new(&config.vae_objective, rate, &model)),
    };
    // 5 what it is asked for
    let clip_skip = config.model.clip_skip.unwrap_or(1) as usize;
    let schedule = NoiseSchedule::new(&model.scheduler)?.to_device(device);
    let prediction_type = schedule.prediction_type();
    let validation = match (&held_out, config.method) {
        (Some(data), Method::Lora | Method::Full) => Some(Validation::new(
            &model,
            data,
            config.validation.timestep_bands as usize,
            config.validation.repeats as usize,
            schedule.to_device(device),
            prediction_type,
        )?),
        _ => None,
    };
    let objective: Box<dyn Objective> = match config.method {
        Method::Vae => Box::new(Autoencoding { seed: config.seed, config: config.vae_objective.clone() }),
        Method::Lora | Method::Full => Box::new(TextToImage {
            seed: config.seed,
            schedule,
            prediction_type,
            noise: config.noise.clone(),
            loss: config.loss.clone(),
            latents: match config.data.cache_latents {
                true => Some(LatentCache::fill(&model, &data, &mut |_, _| {})?),
                false => None,
            },
            prompts: (!trains_text_encoder(&config)).then(|| PromptCache::new(clip_skip)),
            clip_skip,
        }),
    };
    // 6 how it follows its gradients
    let optimizer = build(&config.optimizer, trainable.param_groups(&model));
    let scaler = (config.precision.compute == FloatType::Fp16).then(GradScaler::default);
    // 7 the run
    let batches_per_epoch = data.batches_per_epoch();
    let total_steps = config.train.total_steps(batches_per_epoch as u64);
    let facts = RunFacts {
        num_train_images: data.report().visits_per_epoch,
        num_batches_per_epoch: batches_per_epoch,
        max_train_steps: total_steps,
        groups: optimizer.groups(),
        prediction_type,
        adapter: trainable.adapter_kind(),
        clip_skip: config.model.clip_skip,
    };
    let metadata = crate::metadata::product_metadata(&config, &facts, total_steps, 1);
    let trace = config
        .debug
        .trace
        .clone()
        .map(|path| Trace::new(path, config.debug.trace_steps, config.to_toml(), optimizer.groups()));
    let sample_request = (!config.samples.prompts.is_empty()).then(|| samples::request(&config, clip_skip));
    let trainer = Trainer {
        config,
        output: options.output.clone(),
        model,
        data,
        trainable,
        objective,
        optimizer,
        scaler,
        validation,
        sample_request,
        metadata,
        trace,
        total_steps,
        clip_skip,
        started,
    };
    trainer.run()
}

/// Whether the text encoder runs inside the step.
fn trains_text_encoder(config: &TrainConfig) -> bool {
    match config.method {
        Method::Lora => config.lora.train_text_encoder,
        Method::Full => config.full.train_text_encoder,
        Method::Vae => false,
    }
}

/// Loads the model with the trained networks in f32 and the others in the compute dtype.
pub fn load_model(config: &TrainConfig, device: Device) -> Result<StableDiffusion> {
    let full = config.method == Method::Full;
    let options = LoadOptions {
        unet_in_f32: full && config.full.train_unet,
        text_encoder_in_f32: full && config.full.train_text_encoder,
        vae_in_f32: config.method == Method::Vae,
        random: (config.model.init == Init::Random).then_some(config.seed),
        variant: config.model.variant.clone(),
        vae: config.model.vae.clone(),
        ..LoadOptions::new(device, kind_of(config.precision.compute))
    };
    let mut model = load(&config.model.path, &options)?;
    model.scheduler = scheduler_of(config, &model.scheduler);
    Ok(model)
}

/// The model's scheduler configuration with what `[model]` says about it.
fn scheduler_of(config: &TrainConfig, scheduler: &SchedulerConfig) -> SchedulerConfig {
    let mut scheduler = scheduler.clone();
    if let Some(prediction_type) = config.model.prediction_type {
        scheduler.prediction_type = Some(match prediction_type {
            sdtrain_recipe::PredictionType::Epsilon => PredictionType::Epsilon,
            sdtrain_recipe::PredictionType::VPrediction => PredictionType::VPrediction,
            sdtrain_recipe::PredictionType::Sample => PredictionType::Sample,
        });
    }
    if let Some(rescale) = config.model.zero_terminal_snr {
        scheduler.rescale_betas_zero_snr = Some(rescale);
    }
    scheduler
}

/// The training images, and the held-out ones where there are any.
fn open_data(config: &TrainConfig, bucket_step: usize) -> Result<(Arc<DataSet>, Option<DataSet>)> {
    if let (None, Some(split)) = (&config.validation.path, config.validation.split) {
        let (data, held_out) = DataSet::open_split(&config.data, config.seed, bucket_step, split)?;
        return Ok((Arc::new(data), Some(held_out)));
    }
    let data = DataSet::open(&config.data, config.seed, bucket_step)?;
    let held_out = match &config.validation.path {
        Some(path) => {
            let subsets = vec![Subset { path: path.clone(), ..held_out_subset(config) }];
            Some(DataSet::open(&DataConfig { subsets, ..config.data.clone() }, config.seed, bucket_step)?)
        }
        None => None,
    };
    if data.batches_per_epoch() == 0 {
        return Err(Error::Config { message: "an epoch has no batch".into(), hint: None });
    }
    Ok((Arc::new(data), held_out))
}

/// Held-out images are read as the first training folder's are, without anything random.
fn held_out_subset(config: &TrainConfig) -> Subset {
    let first = config.data.subsets.first().cloned().unwrap_or_default();
    Subset {
        repeats: 1,
        shuffle_caption: false,
        caption_dropout_rate: 0.0,
        flip: false,
        random_crop: false,
        ..first
    }
}
