//! `trainable`: what carries the gradients, and what the rest of a run must know of it. Each has a file here for that, and one in the
//! trainer for what it does.

mod full;
mod lora;
mod textual_inversion;
mod vae;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LearnedTokenConfig, ObjectiveKind, TrainConfig, matches_pattern};

/// What carries the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainableKind {
    /// A low-rank adapter beside the frozen model; see `[lora]`.
    Lora,
    /// The model's own weights; see `[full]`.
    Full,
    /// The autoencoder's weights; see `[vae_objective]`.
    Vae,
    /// Vectors of new words; see `[textual_inversion]`.
    TextualInversion,
}

impl TrainableKind {
    /// All of them.
    pub const ALL: [TrainableKind; 4] =
        [TrainableKind::Lora, TrainableKind::Full, TrainableKind::Vae, TrainableKind::TextualInversion];

    /// The name as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            TrainableKind::Lora => "lora",
            TrainableKind::Full => "full",
            TrainableKind::Vae => "vae",
            TrainableKind::TextualInversion => "textual_inversion",
        }
    }

    /// What `config` makes of it: the list's one place.
    pub fn facts(self, config: &TrainConfig) -> TrainableFacts<'_> {
        match self {
            TrainableKind::Lora => lora::facts(config),
            TrainableKind::Full => full::facts(config),
            TrainableKind::Vae => vae::facts(config),
            TrainableKind::TextualInversion => textual_inversion::facts(config),
        }
    }
}

/// What of a network learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learning {
    /// Nothing: it is frozen.
    Nothing,
    /// Adapters beside its frozen weights.
    Adapters,
    /// Its own weights.
    Weights,
}

impl Learning {
    fn of(self, is_trained: bool) -> Learning {
        if is_trained { self } else { Learning::Nothing }
    }
}

/// Whether new words can be learned; see `[textual_inversion]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// No.
    Never,
    /// Beside what else is trained, where there are any.
    Beside,
    /// They are all that is trained.
    Alone,
}

/// What of a product the next stage begins with; see `[[stages]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandedOn {
    /// A whole model: its base.
    Model,
    /// An autoencoder: that of its base.
    Vae,
    /// Adapters: those that it trains, or else a part of its base.
    Adapters,
    /// Words, which it learns on.
    Words,
}

/// What a run must know of what it trains. There is no default: a new trainable answers everything.
#[derive(Debug, Clone)]
pub struct TrainableFacts<'c> {
    /// What of the UNet learns.
    pub unet: Learning,
    /// What of the text encoder learns, words left aside.
    pub text_encoder: Learning,
    /// What of the autoencoder learns.
    pub vae: Learning,
    /// Whether words are learned.
    pub words: Words,
    /// Why it cannot be asked for an objective, and the way out.
    pub refuses: fn(ObjectiveKind) -> Option<(&'static str, &'static str)>,
    /// The key and the message, where the configuration leaves nothing to train whatever the model is.
    pub nothing: Option<(&'static str, &'static str)>,
    /// What to say where this model has nothing to train.
    pub nothing_in_model: &'static str,
    /// The key that has the text encoder trained, if there is one.
    pub text_encoder_key: Option<&'static str>,
    /// Learning rate of the UNet or its adapters. None: that of the optimizer.
    pub unet_learning_rate: Option<f64>,
    /// The same of the text encoder.
    pub text_encoder_learning_rate: Option<f64>,
    /// The key for a rate of the second text encoder's own, and that rate, where it is set. None: that of the first.
    pub text_encoder_2_learning_rate: Option<(&'static str, f64)>,
    /// How many times these rates LoRA+'s upper matrices learn, of UNet and text encoder.
    pub loraplus_ratios: [Option<f64>; 2],
    /// A key that names an adapter file which training goes on from, and the file.
    pub initial: Option<(&'static str, &'c Path)>,
    /// Whether it trains the parameter of this name (diffusers', behind `unet.`, `text_encoder.` or `vae.`) of a network whose own
    /// weights learn.
    pub trains_weight: fn(&TrainConfig, &str) -> bool,
    /// Its patterns for names of parameters, with their keys.
    pub patterns: Vec<(&'static str, &'c [String])>,
    /// What stands in memory beside each byte that is kept for the backward pass: gradients on their way back, what operators need while
    /// they work, and room between pieces that are freed in another order. Measured with the built-in base (docs/guides/memory.md).
    pub beside_kept: f64,
    /// What the product is, in words.
    pub product: fn(&TrainConfig) -> String,
    /// What the next stage begins with.
    pub hands_on: HandedOn,
}

impl<'c> TrainableFacts<'c> {
    /// Whether weights of the model itself learn.
    pub fn trains_weights(&self) -> bool {
        [self.unet, self.text_encoder, self.vae].contains(&Learning::Weights)
    }

    /// The first pattern that matches none of `names`, with its key: a slip of the pen.
    pub fn idle_pattern<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) -> Option<(&'static str, &'c str)> {
        let idle = |pattern: &&'c String| !names.clone().any(|name| matches_pattern(pattern, name));
        self.patterns.iter().find_map(|(key, patterns)| Some((*key, patterns.iter().find(idle)?.as_str())))
    }

    /// Whether adapters learn.
    pub fn trains_adapters(&self) -> bool {
        [self.unet, self.text_encoder, self.vae].contains(&Learning::Adapters)
    }
}

/// What works between latents and pixels is trained by its own method alone.
const AUTOENCODER_APART: (&str, &str) = ("the autoencoder has a method of its own", "leave `trainable` out");

/// Of what learns to denoise.
fn refuses_autoencoding(objective: ObjectiveKind) -> Option<(&'static str, &'static str)> {
    (!objective.denoises()).then_some(AUTOENCODER_APART)
}

/// Of what leaves the model's own weights alone.
fn no_weight(_: &TrainConfig, _: &str) -> bool {
    false
}

impl TrainConfig {
    /// What the rest of the run must know of what is trained.
    pub fn trainable_facts(&self) -> TrainableFacts<'_> {
        self.trainable_kind().facts(self)
    }

    /// Whether the text encoder or a word in it learns, so that it runs inside every step.
    pub fn trains_text_encoder(&self) -> bool {
        let facts = self.trainable_facts();
        facts.text_encoder != Learning::Nothing || facts.words == Words::Alone || !self.learned_tokens().is_empty()
    }

    /// Whether the UNet learns.
    pub fn trains_unet(&self) -> bool {
        self.trainable_facts().unet != Learning::Nothing
    }

    /// Learning rate of the UNet or its adapters, before any schedule; its blocks may have others.
    pub fn unet_learning_rate(&self) -> f64 {
        self.trainable_facts().unet_learning_rate.unwrap_or(self.optimizer.learning_rate())
    }

    /// Learning rate of the text encoder or its adapters, before any schedule.
    pub fn text_encoder_learning_rate(&self) -> f64 {
        self.trainable_facts().text_encoder_learning_rate.unwrap_or(self.optimizer.learning_rate())
    }

    /// The same of the second text encoder, where the model has two.
    pub fn text_encoder_2_learning_rate(&self) -> f64 {
        let own = self.trainable_facts().text_encoder_2_learning_rate;
        own.map_or_else(|| self.text_encoder_learning_rate(), |(_, rate)| rate)
    }

    /// Why there can be no rate for a second text encoder beside `text_encoders` of them, and the way out, if so.
    pub fn second_rate_refused(&self, text_encoders: usize) -> Option<(String, String)> {
        let (key, _) = self.trainable_facts().text_encoder_2_learning_rate.filter(|_| text_encoders < 2)?;
        Some((format!("`{key}` is set, but the model has only one text encoder"), format!("remove `{key}`")))
    }

    /// The words that the run learns, alone or beside something else.
    pub fn learned_tokens(&self) -> &[LearnedTokenConfig] {
        match self.trainable_facts().words {
            Words::Never => &[],
            Words::Beside | Words::Alone => &self.textual_inversion.tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trains_one_thing_and_keeps_to_the_objectives_of_it() {
        let config = TrainConfig::default();
        for kind in TrainableKind::ALL {
            let facts = kind.facts(&config);
            let things = [facts.trains_weights(), facts.trains_adapters(), facts.words == Words::Alone];
            assert_eq!(things.iter().filter(|thing| **thing).count(), 1, "{kind:?}: {things:?}");
            let is_apart = facts.vae != Learning::Nothing;
            assert_eq!((facts.refuses)(ObjectiveKind::TextToImage).is_some(), is_apart, "{kind:?}");
            assert_eq!((facts.refuses)(ObjectiveKind::Autoencoding).is_none(), is_apart, "{kind:?}");
            assert_eq!(facts.nothing, None, "{kind:?} trains something unless it is told not to");
        }
    }

    #[test]
    fn an_encoder_that_stays_is_no_weight_of_the_autoencoders_training() {
        let mut config = TrainConfig { trainable: Some(TrainableKind::Vae), ..TrainConfig::default() };
        let trains = |config: &TrainConfig, name: &str| (config.trainable_facts().trains_weight)(config, name);
        config.vae_objective.train_encoder = false;
        assert!(trains(&config, "vae.decoder.conv_in.weight") && trains(&config, "vae.post_quant_conv.bias"));
        assert!(!trains(&config, "vae.encoder.conv_in.weight") && !trains(&config, "vae.quant_conv.bias"));
        config.vae_objective.train_encoder = true;
        assert!(trains(&config, "vae.encoder.conv_in.weight"));
    }
}
