//! The strings in a product's header that say how it was made: kohya's `ss_*` and the ModelSpec keys.

use sdtrain_diffusion::PredictionType;
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{FloatType, TrainConfig, published_name};
use sdtrain_state_dict::Family;
use sdtrain_state_dict::metadata::{ModelSpec, architecture};
use std::collections::BTreeMap;

/// What the metadata of a product needs to know beside the configuration.
pub struct RunFacts<'a> {
    /// Images, with repeats.
    pub num_train_images: usize,
    /// Regularization images, with repeats.
    pub num_reg_images: usize,
    /// Batches.
    pub num_batches_per_epoch: usize,
    /// Optimizer steps of the whole run.
    pub max_train_steps: u64,
    /// The trained groups.
    pub groups: &'a [ParamGroup],
    /// The model's family.
    pub family: Family,
    /// What the model predicts.
    pub prediction_type: PredictionType,
    /// Whether the last timestep is pure noise.
    pub zero_terminal_snr: bool,
    /// `lora` or none.
    pub adapter: Option<&'static str>,
    /// Layers from the end, where the configuration says so.
    pub clip_skip: Option<u32>,
    /// The adapters that became a part of the base, as `sdtrain_adapter::describe` says it.
    pub fused: Option<&'a str>,
}

/// The header of a product made after `step` steps in `epoch` (counted from 1).
pub fn product_metadata(config: &TrainConfig, facts: &RunFacts, step: u64, epoch: u64) -> BTreeMap<String, String> {
    let (noise, loss) = (&config.noise, &config.loss);
    let trains = |network: &str| facts.groups.iter().any(|group| group.name.split('.').next() == Some(network));
    let scale = config.learning_rate_scale();
    let unet_rate = trains("unet").then(|| (config.unet_learning_rate() * scale).to_string());
    let text_rate = trains("text_encoder").then(|| (config.text_encoder_learning_rate() * scale).to_string());
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "None".to_string());
    let number = |value: f64| or_none((value != 0.0).then(|| value.to_string()));
    let python_bool = |value: bool| if value { "True" } else { "False" }.to_string();
    let resolution = (config.data.resolution.width(), config.data.resolution.height());
    let mixed_precision = match config.precision.compute {
        FloatType::Fp32 => "no",
        other => other.name(),
    };
    let v_prediction = facts.prediction_type == PredictionType::VPrediction;
    let entries = [
        ("ss_v2", python_bool(facts.family.is_kohya_v2())),
        ("ss_base_model_version", facts.family.kohya_version(v_prediction).to_string()),
        ("ss_output_name", config.name.clone()),
        ("ss_learning_rate", config.optimizer.learning_rate().to_string()),
        ("ss_unet_lr", or_none(unet_rate)),
        ("ss_text_encoder_lr", or_none(text_rate)),
        ("ss_optimizer", config.optimizer.in_words()),
        ("ss_lr_scheduler", config.lr_schedule.name().to_string()),
        ("ss_lr_warmup_steps", config.lr_schedule.warmup_steps(facts.max_train_steps).to_string()),
        ("ss_num_train_images", facts.num_train_images.to_string()),
        ("ss_num_reg_images", facts.num_reg_images.to_string()),
        ("ss_prior_loss_weight", config.loss.prior_loss_weight.to_string()),
        ("ss_num_batches_per_epoch", facts.num_batches_per_epoch.to_string()),
        ("ss_total_batch_size", config.data.batch_size.to_string()),
        ("ss_gradient_accumulation_steps", config.train.gradient_accumulation_steps.to_string()),
        ("ss_gradient_checkpointing", python_bool(config.train.gradient_checkpointing.is_on())),
        ("ss_max_train_steps", facts.max_train_steps.to_string()),
        ("ss_max_grad_norm", config.train.max_grad_norm.to_string()),
        ("ss_mixed_precision", mixed_precision.to_string()),
        ("ss_resolution", format!("({}, {})", resolution.0, resolution.1)),
        ("ss_enable_bucket", python_bool(config.data.bucketing.enabled)),
        ("ss_cache_latents", python_bool(config.data.cache_latents)),
        ("ss_clip_skip", or_none(facts.clip_skip.map(|n| n.to_string()))),
        ("ss_max_token_length", or_none(config.model.max_token_length.map(|length| length.to_string()))),
        ("ss_noise_offset", number(noise.offset)),
        ("ss_noise_offset_random_strength", python_bool(noise.offset_random_strength)),
        ("ss_adaptive_noise_scale", number(noise.adaptive_offset_scale)),
        ("ss_multires_noise_iterations", number(f64::from(noise.multires_iterations))),
        ("ss_multires_noise_discount", noise.effective_multires_discount().to_string()),
        ("ss_ip_noise_gamma", number(noise.input_perturbation)),
        ("ss_ip_noise_gamma_random_strength", python_bool(noise.input_perturbation_random_strength)),
        ("ss_zero_terminal_snr", python_bool(facts.zero_terminal_snr)),
        ("ss_min_snr_gamma", or_none(loss.min_snr_gamma.map(|gamma| gamma.to_string()))),
        ("ss_debiased_estimation", python_bool(loss.debiased_estimation)),
        ("ss_loss_type", loss.loss_type.kohya_name().to_string()),
        ("ss_huber_schedule", loss.effective_huber_schedule().name().to_string()),
        ("ss_huber_scale", loss.effective_huber_scale().to_string()),
        ("ss_huber_c", loss.effective_huber_c().to_string()),
        ("ss_seed", config.seed.to_string()),
        ("ss_steps", step.to_string()),
        ("ss_epoch", epoch.to_string()),
        ("ss_sd_model_name", published_name(&config.model.path)),
        ("sdtrain.version", env!("CARGO_PKG_VERSION").to_string()),
    ];
    let spec = ModelSpec {
        architecture: architecture(facts.family, v_prediction, facts.adapter),
        implementation: facts.family.implementation().into(),
        title: config.name.clone(),
        resolution: Some(resolution),
        prediction_type: Some(if v_prediction { "v" } else { "epsilon" }.into()),
        encoder_layer: facts.clip_skip,
        ..ModelSpec::default()
    };
    let fused = facts.fused.map(|fused| (sdtrain_adapter::FUSED_KEY.to_string(), fused.to_string()));
    entries.into_iter().map(|(key, value)| (key.to_string(), value)).chain(spec.keys()).chain(fused).collect()
}
