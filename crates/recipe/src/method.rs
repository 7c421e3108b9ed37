//! `method` and `trainable`: a method is a name for a pair of what is trained and what it is asked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TrainConfig;

/// What a run does: a name for what is trained and what it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A low-rank adapter beside the frozen model.
    Lora,
    /// The model's own weights.
    Full,
    /// One subject among others of its class, by the model's own weights unless `trainable` says otherwise; see `[dreambooth]`.
    Dreambooth,
    /// The autoencoder between pixels and latents.
    Vae,
    /// Words that the frozen model does not know yet.
    TextualInversion,
}

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

/// What the trained parts are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectiveKind {
    /// To remove noise from captioned images.
    TextToImage,
    /// To remove noise from images of a subject, and to keep its class.
    Dreambooth,
    /// To reproduce images through the autoencoder.
    Autoencoding,
}

/// The list: each method as its pair.
const METHODS: &[(Method, TrainableKind, ObjectiveKind)] = &[
    (Method::Lora, TrainableKind::Lora, ObjectiveKind::TextToImage),
    (Method::Full, TrainableKind::Full, ObjectiveKind::TextToImage),
    (Method::Dreambooth, TrainableKind::Full, ObjectiveKind::Dreambooth),
    (Method::Vae, TrainableKind::Vae, ObjectiveKind::Autoencoding),
    (Method::TextualInversion, TrainableKind::TextualInversion, ObjectiveKind::TextToImage),
];

impl Method {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Method> {
        METHODS.iter().map(|(method, ..)| *method)
    }

    /// The name as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Method::Lora => "lora",
            Method::Full => "full",
            Method::Dreambooth => "dreambooth",
            Method::Vae => "vae",
            Method::TextualInversion => "textual_inversion",
        }
    }

    /// What it means, as far as `trainable` does not say otherwise.
    fn pair(self) -> (TrainableKind, ObjectiveKind) {
        let row = METHODS.iter().find(|(method, ..)| *method == self);
        let (_, trainable, objective) = row.expect("each method has a row");
        (*trainable, *objective)
    }
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
}

impl ObjectiveKind {
    /// Whether the denoiser learns: it sees latents, noise and captions.
    pub fn denoises(self) -> bool {
        self != ObjectiveKind::Autoencoding
    }
}

impl TrainConfig {
    /// What carries the gradients: `trainable`, or what `method` means.
    pub fn trainable_kind(&self) -> TrainableKind {
        self.trainable.unwrap_or(self.method.pair().0)
    }

    /// What the trained parts are asked for.
    pub fn objective_kind(&self) -> ObjectiveKind {
        self.method.pair().1
    }

    /// Whether the text encoder or a word in it learns, so that it runs inside every step.
    pub fn trains_text_encoder(&self) -> bool {
        match self.trainable_kind() {
            TrainableKind::Lora => self.lora.train_text_encoder || !self.learned_tokens().is_empty(),
            TrainableKind::Full => self.full.train_text_encoder,
            TrainableKind::Vae => false,
            TrainableKind::TextualInversion => true,
        }
    }

    /// Whether the UNet learns.
    pub fn trains_unet(&self) -> bool {
        match self.trainable_kind() {
            TrainableKind::Lora => self.lora.train_unet,
            TrainableKind::Full => self.full.train_unet,
            TrainableKind::Vae | TrainableKind::TextualInversion => false,
        }
    }

    /// Learning rate of the UNet or its adapters, before any schedule; its blocks may have others.
    pub fn unet_learning_rate(&self) -> f64 {
        let own = match self.trainable_kind() {
            TrainableKind::Lora => self.lora.unet_learning_rate,
            TrainableKind::Full => self.full.unet_learning_rate,
            TrainableKind::Vae | TrainableKind::TextualInversion => None,
        };
        own.unwrap_or(self.optimizer.learning_rate())
    }

    /// Learning rate of the text encoder or its adapters, before any schedule.
    pub fn text_encoder_learning_rate(&self) -> f64 {
        let own = match self.trainable_kind() {
            TrainableKind::Lora => self.lora.text_encoder_learning_rate,
            TrainableKind::Full => self.full.text_encoder_learning_rate,
            TrainableKind::Vae | TrainableKind::TextualInversion => None,
        };
        own.unwrap_or(self.optimizer.learning_rate())
    }

    /// The same of the second text encoder, where the model has two.
    pub fn text_encoder_2_learning_rate(&self) -> f64 {
        self.own_text_encoder_2_rate().map_or_else(|| self.text_encoder_learning_rate(), |(_, rate)| rate)
    }

    /// Why there can be no rate for a second text encoder beside `text_encoders` of them, and the way out, if so.
    pub fn second_rate_refused(&self, text_encoders: usize) -> Option<(String, String)> {
        let (key, _) = self.own_text_encoder_2_rate().filter(|_| text_encoders < 2)?;
        Some((format!("`{key}` is set, but the model has only one text encoder"), format!("remove `{key}`")))
    }

    fn own_text_encoder_2_rate(&self) -> Option<(&'static str, f64)> {
        let (key, own) = match self.trainable_kind() {
            TrainableKind::Lora => ("lora.text_encoder_2_learning_rate", self.lora.text_encoder_2_learning_rate),
            TrainableKind::Full => ("full.text_encoder_2_learning_rate", self.full.text_encoder_2_learning_rate),
            TrainableKind::Vae | TrainableKind::TextualInversion => return None,
        };
        own.map(|rate| (key, rate))
    }

    /// How many times those rates LoRA+'s upper matrices learn, of UNet and text encoder.
    pub fn loraplus_ratios(&self) -> [Option<f64>; 2] {
        if self.trainable_kind() != TrainableKind::Lora {
            return [None, None];
        }
        [self.lora.loraplus_unet_lr_ratio, self.lora.loraplus_text_encoder_lr_ratio]
            .map(|own| own.or(self.lora.loraplus_lr_ratio))
    }

    /// Why the pair of `method` and `trainable` can't be, and the way out, if so.
    pub(crate) fn pair_refused(&self) -> Option<(String, String)> {
        let (trainable, objective) = (self.trainable_kind(), self.objective_kind());
        let (reason, hint) = if (trainable == TrainableKind::Vae) == objective.denoises() {
            ("the autoencoder has a method of its own", "leave `trainable` out")
        } else if (trainable, objective) == (TrainableKind::TextualInversion, ObjectiveKind::Dreambooth) {
            // The class prompt does not hold the word: all that keeps the class would cost time and change nothing.
            ("a word alone leaves its class as it is", "set `method = \"textual_inversion\"` and leave `trainable` out")
        } else {
            return None;
        };
        let (method, trainable) = (self.method.name(), trainable.name());
        Some((format!("`method = \"{method}\"` cannot train `\"{trainable}\"`: {reason}"), hint.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trainable_takes_the_place_of_the_methods_own() {
        let mut config = TrainConfig { method: Method::Full, ..TrainConfig::default() };
        assert_eq!(config.trainable_kind(), TrainableKind::Full);
        config.trainable = Some(TrainableKind::Lora);
        assert_eq!(config.trainable_kind(), TrainableKind::Lora);
        assert_eq!(config.pair_refused(), None);
    }

    /// The names in a configuration's schema, which is made from the types.
    fn names_of<T: JsonSchema>() -> Vec<String> {
        let schema = schemars::schema_for!(T);
        let choices = schema.get("oneOf").and_then(|choices| choices.as_array()).expect("a list of names");
        choices.iter().map(|choice| choice["const"].as_str().expect("a name").to_owned()).collect()
    }

    #[test]
    fn the_lists_of_methods_and_trainables_are_whole() {
        assert_eq!(names_of::<Method>(), Method::all().map(Method::name).collect::<Vec<_>>());
        let mut trainables = TrainableKind::ALL.map(TrainableKind::name);
        let mut names = names_of::<TrainableKind>();
        trainables.sort();
        names.sort();
        assert_eq!(names, trainables);
    }

    #[test]
    fn the_autoencoder_is_trained_by_its_own_method_alone() {
        let mut config = TrainConfig { trainable: Some(TrainableKind::Vae), ..TrainConfig::default() };
        assert!(config.pair_refused().is_some());
        config = TrainConfig { method: Method::Vae, ..TrainConfig::default() };
        assert_eq!(config.pair_refused(), None);
        config.trainable = Some(TrainableKind::Lora);
        assert!(config.pair_refused().is_some());
    }

    #[test]
    fn words_alone_have_no_class_to_keep() {
        let trainable = Some(TrainableKind::TextualInversion);
        let config = TrainConfig { method: Method::Dreambooth, trainable, ..TrainConfig::default() };
        let (message, hint) = config.pair_refused().expect("refused");
        assert!(message.ends_with("a word alone leaves its class as it is") && hint.contains("textual_inversion"));
    }
}
