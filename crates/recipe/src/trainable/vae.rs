//! The autoencoder's own weights: `[vae_objective]`.

use super::full::whole_model;
use super::{AUTOENCODER_APART, HandedOn, Learning, TrainableFacts, Words};
use crate::{ModelFormat, TrainConfig, VaeProduct};

pub(super) fn facts(config: &TrainConfig) -> TrainableFacts<'_> {
    TrainableFacts {
        unet: Learning::Nothing,
        text_encoder: Learning::Nothing,
        vae: Learning::Weights,
        words: Words::Never,
        refuses: |objective| objective.denoises().then_some(AUTOENCODER_APART),
        nothing: None,
        nothing_in_model: "the model holds none of the networks that are to be trained",
        text_encoder_key: None,
        unet_learning_rate: None,
        text_encoder_learning_rate: None,
        text_encoder_2_learning_rate: None,
        loraplus_ratios: [None, None],
        initial: None,
        trains_weight: |config, name| {
            let of_encoder = name.starts_with("vae.encoder.") || name.starts_with("vae.quant_conv.");
            config.vae_objective.train_encoder || !of_encoder
        },
        patterns: Vec::new(),
        beside_kept: 1.3,
        product,
        hands_on: match config.vae_objective.product {
            VaeProduct::Model => HandedOn::Model,
            VaeProduct::Vae => HandedOn::Vae,
        },
    }
}

fn product(config: &TrainConfig) -> String {
    let product = match (config.vae_objective.product, config.full.format) {
        (VaeProduct::Vae, ModelFormat::SingleFile) => "a VAE in one file",
        (VaeProduct::Vae, ModelFormat::Diffusers) => "a VAE in a folder of diffusers",
        (VaeProduct::Model, format) => whole_model(format),
    };
    product.to_owned()
}
