//! CLIP's text tower: every hidden state, the final norm, clip skip and both activations.

use crate::{BF16, FP32, from_weights};
use sdtrain_model::text_encoder::{ClipTextConfig, ClipTextModel};
use sdtrain_torch_test_support::{Golden, assert_near};
use tch::Kind;

fn encoder(golden: &Golden, kind: Kind) -> ClipTextModel {
    let config = ClipTextConfig::from_json(&golden.config()).expect("a configuration of transformers");
    ClipTextModel::new(from_weights(&golden.under("weights."), kind), &config).expect("the weights fit")
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
        let states = encoder.forward(&ids, Kind::Float, clip_skip, false);
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
        let states = encoder(&golden, Kind::BFloat16).forward(&golden.tensor("input.ids"), Kind::BFloat16, 1, false);
        assert_eq!(states.kind(), Kind::BFloat16);
        assert_near(&format!("{file}: bf16"), &states, &golden.tensor("output.last_hidden_state_bf16"), BF16);
    }
}
