//! Adapters of the LoRA family beside the frozen model: `[lora]`.

use super::{HandedOn, Learning, TrainableFacts, Words, no_weight, refuses_autoencoding};
use crate::{AdapterKind, LoraConfig, LoraFormat, TrainConfig};

pub(super) fn facts(config: &TrainConfig) -> TrainableFacts<'_> {
    let lora = &config.lora;
    TrainableFacts {
        unet: Learning::Adapters.of(lora.train_unet),
        text_encoder: Learning::Adapters.of(lora.train_text_encoder),
        vae: Learning::Nothing,
        words: Words::Beside,
        refuses: refuses_autoencoding,
        nothing: nothing(lora),
        nothing_in_model: "the model holds no module that `lora` asks for",
        text_encoder_key: Some("lora.train_text_encoder"),
        unet_learning_rate: lora.unet_learning_rate,
        text_encoder_learning_rate: lora.text_encoder_learning_rate,
        text_encoder_2_learning_rate: lora
            .text_encoder_2_learning_rate
            .map(|rate| ("lora.text_encoder_2_learning_rate", rate)),
        loraplus_ratios: [lora.loraplus_unet_lr_ratio, lora.loraplus_text_encoder_lr_ratio]
            .map(|own| own.or(lora.loraplus_lr_ratio)),
        initial: lora.initial.as_deref().map(|path| ("lora.initial", path)),
        trains_weight: no_weight,
        patterns: Vec::new(),
        // Every adapted layer has its own products beside those of the layer, and DoRA scales both.
        beside_kept: if lora.kind == AdapterKind::Dora { 2.8 } else { 1.85 },
        product,
        hands_on: HandedOn::Adapters,
    }
}

fn nothing(lora: &LoraConfig) -> Option<(&'static str, &'static str)> {
    let no_targets = lora.targets.as_ref().is_some_and(Vec::is_empty);
    match (lora.train_unet, lora.train_text_encoder) {
        (false, false) => {
            Some(("lora", "nothing is trained: `lora.train_unet` and `lora.train_text_encoder` are both false"))
        }
        (true, false) if no_targets && !lora.convolutions => {
            Some(("lora.targets", "nothing is trained: `lora.targets` is empty"))
        }
        _ => None,
    }
}

fn product(config: &TrainConfig) -> String {
    let form = match config.lora.format {
        LoraFormat::Kohya => "kohya's form",
        LoraFormat::Peft => "PEFT's form",
        LoraFormat::Both => "kohya's and in PEFT's form",
    };
    format!("a {} in {form}", config.lora.kind.title())
}
