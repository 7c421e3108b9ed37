//! The configurations that a model is built from, and whether a single file can do without them.

use crate::error::{Error, Result};
use crate::text_encoder::{ClipTextConfig, TextEncoderConfig};
use crate::unet::UNetConfig;
use crate::vae::VaeConfig;
use sdtrain_diffusion::{PredictionType, SchedulerClass, SchedulerConfig};
use sdtrain_state_dict::{Family, PipelineConfigs};

/// The configurations of a model: enough to build it, without weights.
#[derive(Debug, Clone)]
pub struct ModelConfigs {
    /// The UNet's.
    pub unet: UNetConfig,
    /// The VAE's.
    pub vae: VaeConfig,
    /// Those of the text encoders.
    pub text_encoders: Vec<TextEncoderConfig>,
    /// The scheduler's.
    pub scheduler: SchedulerConfig,
    /// Where there is no negative prompt, zeros stand for the states of an empty one.
    pub zeros_for_empty_prompt: bool,
}

impl ModelConfigs {
    /// From parsed configuration files.
    ///
    /// # Errors
    /// For an option that the networks or the schedule do not have, by its name, and where the networks do not go together.
    pub fn from_json(configs: &PipelineConfigs) -> Result<ModelConfigs> {
        let configs = ModelConfigs {
            unet: UNetConfig::from_json(&configs.unet)?,
            vae: VaeConfig::from_json(&configs.vae)?,
            text_encoders: configs.text_encoders.iter().map(TextEncoderConfig::from_json).collect::<Result<_>>()?,
            scheduler: SchedulerConfig::from_json(&configs.scheduler.to_string())?,
            zeros_for_empty_prompt: configs.zeros_for_empty_prompt,
        };
        configs.check()?;
        Ok(configs)
    }

    /// That the UNet takes what the text encoders make.
    pub(crate) fn check(&self) -> Result<()> {
        let width: i64 = self.text_encoders.iter().map(TextEncoderConfig::hidden_size).sum();
        if width != self.unet.cross_attention_dim {
            return Err(Error::Config(format!(
                "unet/config.json: `cross_attention_dim` is {}, but the text encoders' states have {width} numbers",
                self.unet.cross_attention_dim
            )));
        }
        let given = self.text_encoders.iter().rev().find_map(TextEncoderConfig::projection_dim);
        if self.unet.adds_text_and_sizes() && given.and_then(|given| self.unet.time_ids(given)).is_none() {
            return Err(Error::Config(format!(
                "unet/config.json: `addition_embed_type` asks for a vector of each prompt that with 5 or 6 times \
                 `addition_time_embed_dim` is `projection_class_embeddings_input_dim`, but {}",
                given.map_or("no text encoder has a projection".into(), |given| format!("it is {given} numbers long"))
            )));
        }
        Ok(())
    }

    /// Whether this is what a reader assumes of a single file of `family` that carries no configuration: its sizes, latents and
    /// noise schedule. Sizes it was trained on, token ids and the sampler make no difference to that, and how many channels its UNet takes in
    /// is seen in the file.
    pub(crate) fn is_plain(&self, family: Family) -> bool {
        let v_prediction = self.scheduler.prediction_type == Some(PredictionType::VPrediction);
        let Ok(plain) = ModelConfigs::from_json(&PipelineConfigs::released(family, v_prediction)) else { return false };
        let unet = UNetConfig {
            sample_size: plain.unet.sample_size.clone(),
            // Seen in the file.
            in_channels: plain.unet.in_channels,
            // In f32 either way, here and where it is fused.
            upcast_attention: plain.unet.upcast_attention,
            ..self.unet.clone()
        };
        let vae = VaeConfig {
            sample_size: plain.vae.sample_size.clone(),
            force_upcast: plain.vae.force_upcast,
            ..self.vae.clone()
        };
        if self.text_encoders.len() != plain.text_encoders.len() {
            return false;
        }
        let text_encoder = |(own, plain): (&TextEncoderConfig, &TextEncoderConfig)| match (own, plain) {
            (TextEncoderConfig::Clip(own), TextEncoderConfig::Clip(plain)) => TextEncoderConfig::Clip(ClipTextConfig {
                bos_token_id: plain.bos_token_id,
                eos_token_id: plain.eos_token_id,
                pad_token_id: plain.pad_token_id,
                projection_dim: if own.has_projection { own.projection_dim } else { plain.projection_dim },
                ..own.clone()
            }),
            (own, _) => own.clone(),
        };
        let text_encoders: Vec<_> = self.text_encoders.iter().zip(&plain.text_encoders).map(text_encoder).collect();
        let schedule = |config: &SchedulerConfig| config.for_stable_diffusion().settings(SchedulerClass::Ddim).ok();
        (unet, vae, text_encoders) == (plain.unet, plain.vae, plain.text_encoders)
            && schedule(&self.scheduler).is_some_and(|own| Some(own) == schedule(&plain.scheduler))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_json::PerBlock;
    use serde_json::json;

    #[test]
    fn what_a_reader_cannot_know_of_a_single_file_makes_it_no_plain_sd1() {
        let sd1 = ModelConfigs::from_json(&PipelineConfigs::sd1()).unwrap();
        assert!(sd1.is_plain(Family::Sd1));
        let mut trained_larger = sd1.clone();
        trained_larger.unet.sample_size = json!(96);
        trained_larger.scheduler.class_name = Some("DDIMScheduler".into());
        assert!(trained_larger.is_plain(Family::Sd1));
        let mut other_heads = sd1.clone();
        other_heads.unet.attention_head_dim = PerBlock::All(4);
        let mut other_latents = sd1.clone();
        other_latents.vae.scaling_factor = 0.13025;
        let mut velocity = sd1.clone();
        velocity.scheduler.prediction_type = Some(PredictionType::VPrediction);
        let mut zero_snr = sd1.clone();
        zero_snr.scheduler.rescale_betas_zero_snr = Some(true);
        for other in [other_heads, other_latents, velocity, zero_snr] {
            assert!(!other.is_plain(Family::Sd1));
        }
    }
}
