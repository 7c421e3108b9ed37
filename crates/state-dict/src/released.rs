//! The configuration files of Stable Diffusion 1.5's, 2's, XL's and its refiner's folders, for single files that carry none.
//!
//! <https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5>, <https://huggingface.co/stabilityai/stable-diffusion-2-1>,
//! <https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0>,
//! <https://huggingface.co/stabilityai/stable-diffusion-xl-refiner-1.0>

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::diffusers_folder::{PipelineConfigs, is_bert};
use crate::error::{Error, Result};
use crate::family::{Family, PREDICTION_TYPE, predicts_velocity};
use crate::found_text::FoundText;
use crate::reader::Reader;
use crate::recognise::LDM_CONV_IN;

/// Rows of CLIP's table of words.
pub(crate) const WORDS_OF_CLIP: usize = 49408;

impl PipelineConfigs {
    /// Stable Diffusion 1.5's.
    pub fn sd1() -> PipelineConfigs {
        PipelineConfigs {
            unet: unet(),
            vae: vae(),
            text_encoders: vec![text_encoder()],
            scheduler: scheduler(),
            zeros_for_empty_prompt: false,
        }
    }

    /// Stable Diffusion 2's: 2.1, which predicts the velocity, or its base, which predicts the noise.
    pub fn sd2(v_prediction: bool) -> PipelineConfigs {
        let mut configs = PipelineConfigs::sd1();
        let unet = json!({
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "sample_size": if v_prediction { 96 } else { 64 },
            "upcast_attention": v_prediction,
            "use_linear_projection": true,
        });
        let text_encoder = json!({
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
            "projection_dim": 512,
        });
        let scheduler = json!({"prediction_type": if v_prediction { "v_prediction" } else { "epsilon" }});
        set(&mut configs.unet, &unet);
        set(&mut configs.text_encoders[0], &text_encoder);
        set(&mut configs.scheduler, &scheduler);
        configs
    }

    /// Stable Diffusion XL 1.0's base, or one that was made of it to predict the velocity.
    pub fn sdxl(v_prediction: bool) -> PipelineConfigs {
        let mut configs = PipelineConfigs::sd1();
        let unet = json!({
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "projection_class_embeddings_input_dim": 2816,
            "sample_size": 128,
            "transformer_layers_per_block": [1, 2, 10],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "use_linear_projection": true,
        });
        let open_clip = json!({
            "architectures": ["CLIPTextModelWithProjection"],
            "hidden_act": "gelu",
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_attention_heads": 20,
            "num_hidden_layers": 32,
            "projection_dim": 1280,
        });
        let scheduler = json!({
            "_class_name": "EulerDiscreteScheduler",
            "prediction_type": if v_prediction { "v_prediction" } else { "epsilon" },
            "timestep_spacing": "leading",
        });
        set(&mut configs.unet, &unet);
        set(&mut configs.vae, &json!({"force_upcast": true, "sample_size": 1024, "scaling_factor": 0.13025}));
        configs.text_encoders.push(text_encoder());
        set(&mut configs.text_encoders[1], &open_clip);
        set(&mut configs.scheduler, &scheduler);
        configs.zeros_for_empty_prompt = true;
        configs
    }

    /// Those of its refiner, or of one that was made of it to predict the velocity.
    pub fn sdxl_refiner(v_prediction: bool) -> PipelineConfigs {
        let mut configs = PipelineConfigs::sdxl(v_prediction);
        let unet = json!({
            "attention_head_dim": [6, 12, 24, 24],
            "block_out_channels": [384, 768, 1536, 1536],
            "cross_attention_dim": 1280,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "projection_class_embeddings_input_dim": 2560,
            "transformer_layers_per_block": 4,
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        });
        set(&mut configs.unet, &unet);
        configs.text_encoders.remove(0);
        configs.zeros_for_empty_prompt = false;
        configs
    }

    /// Those of `family`'s release; SD1 was not released to predict the velocity.
    pub fn released(family: Family, v_prediction: bool) -> PipelineConfigs {
        match family {
            Family::Sd1 => PipelineConfigs::sd1(),
            Family::Sd2 => PipelineConfigs::sd2(v_prediction),
            Family::Sdxl => PipelineConfigs::sdxl(v_prediction),
            Family::SdxlRefiner => PipelineConfigs::sdxl_refiner(v_prediction),
        }
    }

    /// Those of `file`, a single file of `family`: what it carries, or else what is assumed of it.
    ///
    /// # Errors
    /// Where what it carries cannot be read, and as [`PipelineConfigs::assumed_of`].
    pub fn of_single_file(file: &dyn Reader, family: Family) -> Result<PipelineConfigs> {
        match PipelineConfigs::from_metadata(file.path(), file.metadata())? {
            Some((configs, _)) => Ok(configs),
            None => PipelineConfigs::assumed_of(file, family),
        }
    }

    /// What a reader assumes of `file`, a single file of `family` that carries no configuration: what was released, with as many input
    /// channels as its UNet has, and under SD1's names with the text encoder that its tensors show: CLIP's with its own vocabulary or
    /// another, or BERT.
    ///
    /// # Errors
    /// Where what it says of its prediction cannot be read.
    pub fn assumed_of(file: &dyn Reader, family: Family) -> Result<PipelineConfigs> {
        let mut configs = PipelineConfigs::released(family, predicts_velocity(file, family)?);
        if let Some(channels) = file.info(LDM_CONV_IN).and_then(|info| info.shape.get(1)) {
            configs.unet["in_channels"] = (*channels).into();
        }
        if let (Family::Sd1, Some(found)) = (family, FoundText::of(file)) {
            found.describe(&mut configs.text_encoders[0]);
        }
        Ok(configs)
    }

    /// That the words of CLIP, whose tokenizer is built in, are those of the text encoders of the single file at `path`, which carries no
    /// tokenizer.
    ///
    /// # Errors
    /// What its text encoder is, where it reads other words.
    pub fn check_reads_words_of_clip(&self, path: &Path) -> Result<()> {
        // Learned words that others put into the table are rows behind CLIP's.
        const MOST_ADDED: usize = 1024;
        let words = |config: &Json| config["vocab_size"].as_u64().map_or(WORDS_OF_CLIP, |words| words as usize);
        let is_other = |config: &&Json| {
            is_bert(config) || words(config).checked_sub(WORDS_OF_CLIP).is_none_or(|added| added > MOST_ADDED)
        };
        match self.text_encoders.iter().find(is_other) {
            None => Ok(()),
            Some(config) => Err(Error::NoTokenizer {
                path: path.to_path_buf(),
                text_encoder: text_encoder_name(config),
                words: words(config),
            }),
        }
    }

    /// Whether they predict the velocity, in place of the noise.
    pub fn is_v_prediction(&self) -> bool {
        self.scheduler["prediction_type"] == "v_prediction"
    }

    /// The side of the square pictures that the model was made for, in pixels, where the configurations say it.
    pub fn resolution(&self) -> Option<u32> {
        let latents = u32::try_from(self.unet["sample_size"].as_u64()?).ok()?;
        let halvings = self.vae["block_out_channels"].as_array()?.len().checked_sub(1)?;
        latents.checked_mul(2u32.checked_pow(u32::try_from(halvings).ok()?)?)
    }

    /// What a single file of `family` says of its prediction where its sizes leave it open, for readers of files that carry no
    /// configurations: [`predicts_velocity`] and kohya's scripts go by it.
    pub fn prediction_metadata(&self, family: Family) -> Option<(String, String)> {
        let said = if self.is_v_prediction() { "v" } else { "epsilon" };
        family.says_prediction().then(|| (PREDICTION_TYPE.to_owned(), said.to_owned()))
    }

    /// Whether a reader that takes a single file for a plain one of its family gets everything right that changes a number: where it
    /// does not, the configurations travel in the metadata.
    pub fn is_plain(&self, family: Family) -> bool {
        let plain = PipelineConfigs::released(family, self.is_v_prediction());
        // A key that is not there has its default, which is SD1's for all of these.
        let agrees = |ours: &Json, plain: &Json, left_out: &[&str]| {
            let keys = plain.as_object().into_iter().flat_map(|plain| plain.iter());
            keys.filter(|(key, _)| !left_out.contains(&key.as_str()))
                .all(|(key, value)| ours.get(key).is_none_or(|own| own == value))
        };
        // Only what training sees of a schedule counts; the class of the sampler and its details are a choice.
        let sampler =
            ["_class_name", "clip_sample", "set_alpha_to_one", "skip_prk_steps", "steps_offset", "timestep_spacing"];
        let tokens = ["architectures", "model_type", "bos_token_id", "eos_token_id", "pad_token_id"];
        // Fused attention has its scores in f32 in any case; how many channels come in is seen in the file. A VAE that a reader keeps in
        // f32 without need is the same one.
        agrees(&self.unet, &plain.unet, &["_class_name", "in_channels", "sample_size", "upcast_attention"])
            && agrees(&self.vae, &plain.vae, &["_class_name", "force_upcast", "sample_size"])
            && self.text_encoders.len() == plain.text_encoders.len()
            && self.text_encoders.iter().zip(&plain.text_encoders).all(|(ours, plain)| agrees(ours, plain, &tokens))
            && agrees(&self.scheduler, &plain.scheduler, &sampler)
            && self.scheduler["rescale_betas_zero_snr"] != true
    }
}

/// What people call the text encoder of `config`.
fn text_encoder_name(config: &Json) -> &'static str {
    if is_bert(config) { "BERT" } else { "CLIP" }
}

/// `config` with the keys of `other` in place of its own.
fn set(config: &mut Json, other: &Json) {
    for (key, value) in other.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
}

fn unet() -> Json {
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
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    })
}

fn vae() -> Json {
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

/// bos, eos and pad are CLIP's legacy values, which transformers treats specially; released files have them.
fn text_encoder() -> Json {
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
        "vocab_size": WORDS_OF_CLIP,
    })
}

fn scheduler() -> Json {
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
