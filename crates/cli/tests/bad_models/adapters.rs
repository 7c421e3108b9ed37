//! Adapters that were made for another model, and files that are none.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sdtrain_state_dict::{Dtype, TensorEntry, write, write_to};

use crate::corpus::{Case, fixture};
use crate::safetensors::with_header;

const LAYER: &str = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k";

fn lora(path: &Path, module: &str, shapes: [&[usize]; 2]) {
    let tensor = |(end, shape): (&str, &[usize])| {
        let bytes = vec![0; shape.iter().product::<usize>() * 4];
        TensorEntry { name: format!("{module}.{end}.weight"), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    };
    let tensors: Vec<TensorEntry> = ["lora_down", "lora_up"].into_iter().zip(shapes).map(tensor).collect();
    write(path, &tensors, &BTreeMap::new()).unwrap();
}

/// A LoRA of rank 2 beside the tiny model's layer, whose alpha is made of these bytes.
fn with_alpha(alpha: [u8; 4]) -> Vec<u8> {
    let tensor = |name: &str, shape: &[usize], bytes: Vec<u8>| TensorEntry {
        name: format!("{LAYER}.{name}"),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes,
    };
    let tensors = [
        tensor("alpha", &[], alpha.to_vec()),
        tensor("lora_down.weight", &[2, 32], vec![0; 2 * 32 * 4]),
        tensor("lora_up.weight", &[16, 2], vec![0; 16 * 2 * 4]),
    ];
    let mut file = Vec::new();
    write_to(&mut file, tensors.as_slice(), &BTreeMap::new()).unwrap();
    file
}

pub fn cases() -> Vec<Case> {
    let initial = |name: &str, make: fn(&Path), says: &str| {
        let make = move |folder: &Path| make(&folder.join("a.safetensors"));
        Case::with_good_model(name, "a.safetensors", "[lora]\ninitial = \"a.safetensors\"\n", make, says)
    };
    let converted = |name: &str, content: Vec<u8>, says: &str| {
        Case::file(name, "a.safetensors", content, says).arguments(&[
            "convert",
            "a.safetensors",
            "b.safetensors",
            "--to",
            "peft-lora",
        ])
    };
    let half = r#"{"lora_unet_conv_in.lora_down.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let whole_numbers = r#"{"lora_unet_conv_in.lora_down.weight":{"dtype":"I32","shape":[1,1],"data_offsets":[0,4]},"lora_unet_conv_in.lora_up.weight":{"dtype":"I32","shape":[1,1],"data_offsets":[4,8]}}"#;
    let none = r#"{"lora_unet_conv_in.lora_down.weight":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},"lora_unet_conv_in.lora_up.weight":{"dtype":"F32","shape":[4,0],"data_offsets":[0,0]}}"#;
    vec![
        initial(
            "a LoRA of SDXL's second text encoder",
            |to| lora(to, "lora_te2_text_model_encoder_layers_0_mlp_fc1", [&[2, 32], &[64, 2]]),
            "the model has no layer for",
        )
        .and("a model of the SDXL family"),
        initial(
            "a LoRA of a level that the model has not",
            |to| lora(to, "lora_unet_down_blocks_3_attentions_0_proj_in", [&[2, 8], &[8, 2]]),
            "made for another base model",
        ),
        initial(
            "a LoRA of text states of another width",
            |to| lora(to, LAYER, [&[2, 2048], &[16, 2]]),
            "`lora.initial`",
        ),
        initial("a LoRA of outputs of another width", |to| lora(to, LAYER, [&[2, 32], &[1280, 2]]), "`lora.initial`"),
        initial("a LoRA of no rank", |to| lora(to, LAYER, [&[0, 32], &[16, 0]]), "`lora.initial`"),
        initial("a LoRA whose alpha is NaN", |to| fs::write(to, with_alpha([0, 0, 0xc0, 0x7f])).unwrap(), "is NaN"),
        initial("a LoRA of two ranks", |to| lora(to, LAYER, [&[2, 32], &[16, 3]]), "`lora.initial`"),
        initial(
            "a learned word for a LoRA",
            |to| {
                fs::copy(fixture("embedding_kohya.safetensors"), to).unwrap();
            },
            "not a LoRA",
        ),
        initial(
            "a model for a LoRA",
            |to| {
                fs::copy(fixture("tiny_sd1.safetensors"), to).unwrap();
            },
            "not a LoRA",
        ),
        initial(
            "a LoRA that is truncated",
            |to| fs::write(to, &fs::read(fixture("lora_kohya.safetensors")).unwrap()[..5000]).unwrap(),
            "a.safetensors",
        ),
        converted("a LoRA with one of two matrices", with_header(half, 4), "lacks one of its two matrices"),
        converted("a LoRA whose alpha is infinite", with_alpha(f32::NEG_INFINITY.to_le_bytes()), "has the alpha -inf"),
        converted("a LoRA of no rank to be converted", with_header(none, 0), "has matrices of rank 0"),
        converted("a LoRA of whole numbers", with_header(whole_numbers, 8), "I32"),
        converted("a model to be a LoRA", fs::read(fixture("tiny_sd1.safetensors")).unwrap(), "not a LoRA"),
    ]
}
