//! Running blocks again in backward changes memory and time, not one bit of a number.

use crate::from_weights;
use sdtrain_model::Parameters;
use sdtrain_model::TextLayer;
use sdtrain_model::text_encoder::TextEncoderConfig;
use sdtrain_model::unet::{UNet2DConditionModel, UNetConfig};
use sdtrain_torch_test_support::{Golden, assert_equal};
use tch::{Kind, Tensor};

/// The gradients of all parameters, which are then without one again.
fn taken_gradients(parameters: &Parameters) -> Vec<(String, Tensor)> {
    let take = |(name, parameter): (&str, &Tensor)| {
        let mut parameter = parameter.shallow_clone();
        let gradient = parameter.grad().copy();
        parameter.zero_grad();
        (name.to_string(), gradient)
    };
    parameters.iter().map(take).collect()
}

/// Holds `forward(false)` against `forward(true)`: output and the gradients of its mean square.
fn equal_to_the_bit(parameters: &Parameters, forward: impl Fn(bool) -> Tensor) {
    parameters.set_requires_grad(true);
    let run = |gradient_checkpointing| {
        let output = forward(gradient_checkpointing);
        output.square().mean(Kind::Float).backward();
        (output, taken_gradients(parameters))
    };
    let (plain, plain_gradients) = run(false);
    let (checkpointed, gradients) = run(true);
    assert_equal("output", &checkpointed, &plain);
    for ((name, plain), (_, checkpointed)) in plain_gradients.iter().zip(&gradients) {
        assert!(plain.abs().max().double_value(&[]) > 0.0, "{name} has no gradient");
        assert_equal(name, checkpointed, plain);
    }
}

#[test]
fn a_whole_unet_is_equal_to_the_bit() {
    for (file, kind) in [
        ("unet.safetensors", Kind::Float),
        ("unet_three_levels.safetensors", Kind::Float),
        ("unet_three_levels.safetensors", Kind::BFloat16),
    ] {
        let golden = Golden::open(file);
        let config = UNetConfig::from_json(&golden.config()).expect("a configuration of diffusers");
        let unet = UNet2DConditionModel::new(from_weights(&golden.under("weights."), Kind::Float), &config);
        let unet = unet.expect("the weights fit");
        let (sample, timesteps) = (golden.tensor("input.sample").to_kind(kind), golden.tensor("input.timesteps"));
        let states = golden.tensor("input.encoder_hidden_states");
        equal_to_the_bit(unet.parameters(), |checkpointing| unet.forward(&sample, &timesteps, &states, checkpointing));
    }
}

#[test]
fn a_whole_text_encoder_is_equal_to_the_bit() {
    let golden = Golden::open("text_encoder.safetensors");
    let config = TextEncoderConfig::from_json(&golden.config()).expect("a configuration of transformers");
    let encoder = config.build(from_weights(&golden.under("weights."), Kind::Float)).expect("the weights fit");
    let ids = golden.tensor("input.ids");
    let layer = TextLayer { from_end: 1, final_norm: true };
    equal_to_the_bit(encoder.parameters(), |checkpointing| {
        encoder.encode(&ids, 0, Kind::Float, layer, checkpointing).0
    });
}
