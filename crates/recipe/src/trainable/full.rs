//! The model's own weights: `[full]`.

use super::{HandedOn, Learning, TrainableFacts, Words, refuses_autoencoding};
use crate::{ModelFormat, TrainConfig};

pub(super) fn facts(config: &TrainConfig) -> TrainableFacts<'_> {
    let full = &config.full;
    let nothing = "nothing is trained: `full.train_unet` and `full.train_text_encoder` are both false";
    TrainableFacts {
        unet: Learning::Weights.of(full.train_unet),
        text_encoder: Learning::Weights.of(full.train_text_encoder),
        vae: Learning::Nothing,
        words: Words::Never,
        refuses: refuses_autoencoding,
        nothing: (!full.train_unet && !full.train_text_encoder).then_some(("full", nothing)),
        nothing_in_model: "`full.targets`, `full.freeze` and `[blocks]` leave nothing of the model to train",
        text_encoder_key: Some("full.train_text_encoder"),
        unet_learning_rate: full.unet_learning_rate,
        text_encoder_learning_rate: full.text_encoder_learning_rate,
        text_encoder_2_learning_rate: full
            .text_encoder_2_learning_rate
            .map(|rate| ("full.text_encoder_2_learning_rate", rate)),
        loraplus_ratios: [None, None],
        initial: None,
        trains_weight: |config, name| config.full.trains(name),
        patterns: vec![("full.targets", &full.targets), ("full.freeze", &full.freeze)],
        beside_kept: 1.3,
        product: |config| whole_model(config.full.format).to_owned(),
        hands_on: HandedOn::Model,
    }
}

/// A whole model, in words.
pub(super) fn whole_model(format: ModelFormat) -> &'static str {
    match format {
        ModelFormat::SingleFile => "a single-file model",
        ModelFormat::Diffusers => "a diffusers folder",
    }
}
