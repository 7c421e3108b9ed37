//! Vectors of new words and nothing else: `[textual_inversion]`.

use super::{HandedOn, Learning, TrainableFacts, Words, no_weight, refuses_autoencoding};
use crate::{ObjectiveKind, TrainConfig};

pub(super) fn facts(_: &TrainConfig) -> TrainableFacts<'_> {
    TrainableFacts {
        unet: Learning::Nothing,
        text_encoder: Learning::Nothing,
        vae: Learning::Nothing,
        words: Words::Alone,
        refuses,
        nothing: None,
        nothing_in_model: "the model holds no text encoder that could learn a word",
        text_encoder_key: None,
        unet_learning_rate: None,
        text_encoder_learning_rate: None,
        text_encoder_2_learning_rate: None,
        loraplus_ratios: [None, None],
        initial: None,
        trains_weight: no_weight,
        patterns: Vec::new(),
        beside_kept: 1.3,
        product: |_| "the words' vectors".to_owned(),
        hands_on: HandedOn::Words,
    }
}

fn refuses(objective: ObjectiveKind) -> Option<(&'static str, &'static str)> {
    match objective {
        // The class prompt does not hold the word: all that keeps the class would cost time and change nothing.
        ObjectiveKind::Dreambooth => {
            let hint = "set `method = \"textual_inversion\"` and leave `trainable` out";
            Some(("a word alone leaves its class as it is", hint))
        }
        objective => refuses_autoencoding(objective),
    }
}
