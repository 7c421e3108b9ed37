//! The VAE: the distribution it encodes to, a draw from it, and decoding.

use crate::{FP32, assert_rounds_as_well, from_weights};
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
    let pixels = vae.decode(&golden.tensor("input.latents").to_kind(Kind::BFloat16));
    for (name, found) in [("mean", &distribution.mean), ("logvar", &distribution.logvar), ("decoded", &pixels)] {
        let [theirs, exact] = ["_bf16", ""].map(|end| golden.tensor(&format!("output.{name}{end}")));
        assert_rounds_as_well(name, found, &theirs, &exact);
    }
}
