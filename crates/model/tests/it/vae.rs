//! The VAE: the distribution it encodes to, a draw from it, and decoding.

use crate::{BF16, FP32, from_weights};
use sdtrain_model::vae::{AutoencoderKL, VaeConfig};
use sdtrain_torch_test_support::{Golden, assert_near};
use tch::Kind;

const FILE: &str = "vae.safetensors";

fn vae(golden: &Golden, kind: Kind) -> AutoencoderKL {
    let config = VaeConfig::from_json(&golden.config()).expect("a configuration of diffusers");
    AutoencoderKL::new(from_weights(&golden.under("weights."), kind), &config).expect("the weights fit")
}

#[test]
fn the_distribution_and_a_draw_from_it_match_diffusers() {
    let golden = Golden::open(FILE);
    let vae = vae(&golden, Kind::Float);
    let distribution = vae.encode(&golden.tensor("input.pixels"));
    assert_near("mean", &distribution.mean, &golden.tensor("output.mean"), FP32);
    assert_near("logvar", &distribution.logvar, &golden.tensor("output.logvar"), FP32);
    let latents = distribution.sample(&golden.tensor("input.posterior_noise")) * vae.config().scaling_factor;
    assert_near("latents", &latents, &golden.tensor("output.latents"), FP32);
}

#[test]
fn decoded_pixels_match_diffusers() {
    let golden = Golden::open(FILE);
    let pixels = vae(&golden, Kind::Float).decode(&golden.tensor("input.latents"));
    assert_near("decoded", &pixels, &golden.tensor("output.decoded"), FP32);
}

#[test]
fn bf16_matches_diffusers() {
    let golden = Golden::open(FILE);
    let vae = vae(&golden, Kind::BFloat16);
    let distribution = vae.encode(&golden.tensor("input.pixels").to_kind(Kind::BFloat16));
    assert_near("mean, bf16", &distribution.mean, &golden.tensor("output.mean_bf16"), BF16);
    assert_near("logvar, bf16", &distribution.logvar, &golden.tensor("output.logvar_bf16"), BF16);
    let pixels = vae.decode(&golden.tensor("input.latents").to_kind(Kind::BFloat16));
    assert_eq!(pixels.kind(), Kind::BFloat16);
    assert_near("decoded, bf16", &pixels, &golden.tensor("output.decoded_bf16"), BF16);
}
