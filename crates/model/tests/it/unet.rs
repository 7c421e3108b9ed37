//! The whole UNet: output, gradients, sizes that do not halve evenly, bf16.

use crate::{FP32, assert_rounds_as_well, from_weights};
use sdtrain_model::unet::{UNet2DConditionModel, UNetConfig};
use sdtrain_torch_test_support::{Golden, assert_near};
use tch::Kind;

fn unet(golden: &Golden, kind: Kind) -> UNet2DConditionModel {
    let config = UNetConfig::from_json(&golden.config()).expect("a configuration of diffusers");
    UNet2DConditionModel::new(from_weights(&golden.under("weights."), kind), &config).expect("the weights fit")
}

fn output_and_gradients_match_diffusers(file: &str) {
    let golden = Golden::open(file);
    let unet = unet(&golden, Kind::Float);
    unet.parameters().set_requires_grad(true);
    let [sample, states] =
        ["input.sample", "input.encoder_hidden_states"].map(|name| golden.tensor(name).set_requires_grad(true));
    let output = unet.forward(&sample, &golden.tensor("input.timesteps"), &states, false);
    assert_near(&format!("{file}: output"), &output, &golden.tensor("output.sample"), FP32);

    let loss = output.square().mean(Kind::Float);
    assert_near(&format!("{file}: loss"), &loss, &golden.tensor("output.loss"), FP32);
    loss.backward();
    for name in golden.names_under("output.gradient.") {
        let gradient = match name.strip_prefix("weights.") {
            Some(parameter) => unet.parameters().get(parameter).expect("the network has it").grad(),
            None if name == "input.sample" => sample.grad(),
            None => states.grad(),
        };
        assert_near(
            &format!("{file}: gradient of {name}"),
            &gradient,
            &golden.tensor(&format!("output.gradient.{name}")),
            FP32,
        );
    }

    let odd = tch::no_grad(|| {
        unet.forward(
            &golden.tensor("input.sample_odd"),
            &golden.tensor("input.timesteps_odd"),
            &states.narrow(0, 0, 1),
            false,
        )
    });
    assert_near(&format!("{file}: a size that does not halve evenly"), &odd, &golden.tensor("output.sample_odd"), FP32);
}

#[test]
fn output_and_gradients_of_sd1s_variant_match_diffusers() {
    output_and_gradients_match_diffusers("unet.safetensors");
}

#[test]
fn output_and_gradients_of_sd2s_variant_match_diffusers() {
    output_and_gradients_match_diffusers("unet_three_levels.safetensors");
}

#[test]
fn bf16_output_matches_diffusers() {
    for file in ["unet.safetensors", "unet_three_levels.safetensors"] {
        let golden = Golden::open(file);
        let output = tch::no_grad(|| {
            unet(&golden, Kind::BFloat16).forward(
                &golden.tensor("input.sample").to_kind(Kind::BFloat16),
                &golden.tensor("input.timesteps"),
                &golden.tensor("input.encoder_hidden_states"),
                false,
            )
        });
        let [theirs, exact] = ["output.sample_bf16", "output.sample"].map(|name| golden.tensor(name));
        assert_rounds_as_well(file, &output, &theirs, &exact);
    }
}
