//! CLIP's text tower: every hidden state, the final norm, clip skip and both activations.

use crate::{FP32, assert_rounds_as_well, from_weights};
use sdtrain_model::TextLayer;
use sdtrain_model::text_encoder::{TextEncoder, TextEncoderConfig};
use sdtrain_torch_test_support::{Golden, assert_near};
use tch::Kind;

/// No prompt of these has a vector of its own, so any id is its end.
const END: i64 = 0;

fn encoder(golden: &Golden, kind: Kind) -> Box<dyn TextEncoder> {
    let config = TextEncoderConfig::from_json(&golden.config()).expect("a configuration of transformers");
    config.build(from_weights(&golden.under("weights."), kind)).expect("the weights fit")
}

/// The states `from_end` layers from the end, through the final norm.
fn normed(from_end: usize) -> TextLayer {
    TextLayer { from_end, final_norm: true }
}

fn states_match_transformers(file: &str) {
    let golden = Golden::open(file);
    let ids = golden.tensor("input.ids");
    let encoder = encoder(&golden, Kind::Float);
    let states = encoder.hidden_states(&ids, Kind::Float, false);
    assert_eq!(states.len(), golden.names_under("output.hidden_states.").len());
    for (layer, state) in states.iter().enumerate() {
        let name = format!("output.hidden_states.{layer}");
        assert_near(&format!("{file}: {name}"), state, &golden.tensor(&name), FP32);
    }
    for (clip_skip, name) in [(1, "output.last_hidden_state"), (2, "output.clip_skip_2")] {
        let (states, _) = encoder.encode(&ids, END, Kind::Float, normed(clip_skip), false);
        assert_near(&format!("{file}: {name}"), &states, &golden.tensor(name), FP32);
    }
}

#[test]
fn states_of_quick_gelu_match_transformers() {
    states_match_transformers("text_encoder.safetensors");
}

#[test]
fn states_of_gelu_match_transformers() {
    states_match_transformers("text_encoder_gelu.safetensors");
}

#[test]
fn bf16_states_match_transformers() {
    for file in ["text_encoder.safetensors", "text_encoder_gelu.safetensors"] {
        let golden = Golden::open(file);
        let (encoder, ids) = (encoder(&golden, Kind::BFloat16), golden.tensor("input.ids"));
        let (states, _) = encoder.encode(&ids, END, Kind::BFloat16, normed(1), false);
        let [theirs, exact] = ["_bf16", ""].map(|end| golden.tensor(&format!("output.last_hidden_state{end}")));
        assert_rounds_as_well(file, &states, &theirs, &exact);
    }
}
