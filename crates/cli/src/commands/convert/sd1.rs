//! The configuration files of Stable Diffusion 1.5's folder, for single files that carry none.
//!
//! <https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5>

use sdtrain_state_dict::PipelineConfigs;
use serde_json::{Value as Json, json};

/// All of them.
pub(super) fn configs() -> PipelineConfigs {
    PipelineConfigs { unet: unet(4), vae: vae(), text_encoder: text_encoder(), scheduler: scheduler() }
}

/// Whether a reader that takes a single file for SD1 gets everything right that changes a number: where it does not, the
/// configurations travel in the metadata.
pub(super) fn is_plain(configs: &PipelineConfigs) -> bool {
    // A key that is not there has its default, which is SD1's for all of these.
    let agrees = |ours: &Json, plain: &Json, left_out: &[&str]| {
        let keys = plain.as_object().into_iter().flat_map(|plain| plain.iter());
        keys.filter(|(key, _)| !left_out.contains(&key.as_str()))
            .all(|(key, value)| ours.get(key).is_none_or(|own| own == value))
    };
    // Only what training sees of a schedule counts; the class of the sampler and its details are a choice.
    let sampler = ["_class_name", "clip_sample", "set_alpha_to_one", "skip_prk_steps", "steps_offset"];
    let tokens = ["architectures", "model_type", "bos_token_id", "eos_token_id", "pad_token_id"];
    agrees(&configs.unet, &unet(4), &["_class_name", "sample_size"])
        && agrees(&configs.vae, &vae(), &["_class_name", "sample_size"])
        && agrees(&configs.text_encoder, &text_encoder(), &tokens)
        && agrees(&configs.scheduler, &scheduler(), &sampler)
        && configs.scheduler["rescale_betas_zero_snr"] != true
}

pub(super) fn unet(in_channels: usize) -> Json {
    json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": false,
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": in_channels,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    })
}

pub(super) fn vae() -> Json {
    json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": vec!["DownEncoderBlock2D"; 4],
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
    })
}

pub(super) fn text_encoder() -> Json {
    json!({
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "vocab_size": 49408,
    })
}

pub(super) fn scheduler() -> Json {
    json!({
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "set_alpha_to_one": false,
        "skip_prk_steps": true,
        "steps_offset": 1,
    })
}
