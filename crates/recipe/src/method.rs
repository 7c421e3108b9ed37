//! `method`: a name for a pair of what is trained (`trainable`) and what it is asked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{TrainConfig, TrainableKind};

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
    /// Painting into pictures, by the model's own weights unless `trainable` says otherwise; see `[inpainting]`.
    Inpainting,
    /// The autoencoder between pixels and latents.
    Vae,
    /// Words that the frozen model does not know yet.
    TextualInversion,
}

/// What the trained parts are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectiveKind {
    /// To remove noise from captioned images.
    TextToImage,
    /// To remove noise from images of a subject, and to keep its class.
    Dreambooth,
    /// To remove noise from images of which it sees what a mask leaves.
    Inpainting,
    /// To reproduce images through the autoencoder.
    Autoencoding,
}

/// The list: each method as its pair.
const METHODS: &[(Method, TrainableKind, ObjectiveKind)] = &[
    (Method::Lora, TrainableKind::Lora, ObjectiveKind::TextToImage),
    (Method::Full, TrainableKind::Full, ObjectiveKind::TextToImage),
    (Method::Dreambooth, TrainableKind::Full, ObjectiveKind::Dreambooth),
    (Method::Inpainting, TrainableKind::Full, ObjectiveKind::Inpainting),
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
            Method::Inpainting => "inpainting",
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

    /// Why the pair of `method` and `trainable` can't be, and the way out, if so.
    pub(crate) fn pair_refused(&self) -> Option<(String, String)> {
        let (trainable, objective) = (self.trainable_kind(), self.objective_kind());
        let (reason, hint) = (self.trainable_facts().refuses)(objective)?;
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
