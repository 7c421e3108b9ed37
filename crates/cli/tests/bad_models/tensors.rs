//! Models with tensors too few, too many or of other shapes, and files that are another thing than what is asked for (musubi-tuner#29,
//! musubi-tuner#49: they are loaded without a word).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sdtrain_state_dict::{Dtype, Reader, SafetensorsFile, TensorEntry, write};
use sdtrain_test_support::copy_folder;
use serde_json::json;

use crate::configs::set;
use crate::corpus::{Case, fixture};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";
const CONTEXT: &str = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";

/// The tensors of a file.
pub fn tensors_of(path: &Path) -> Vec<TensorEntry> {
    let file = SafetensorsFile::open(path).unwrap();
    let tensor = |name: &str| {
        let info = file.info(name).unwrap();
        let bytes = file.bytes(name).unwrap().into_owned();
        TensorEntry { name: name.to_owned(), dtype: info.dtype, shape: info.shape.clone(), bytes }
    };
    file.names().into_iter().map(tensor).collect()
}

fn zeros(name: &str, shape: &[usize]) -> TensorEntry {
    let length = shape.iter().product::<usize>() * 4;
    TensorEntry { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), bytes: vec![0; length] }
}

/// A model whose weights at `path` were changed.
fn case(name: &str, path: &'static str, change: impl Fn(&mut Vec<TensorEntry>) + 'static, says: &str) -> Case {
    let change = move |model: &Path| {
        let mut tensors = tensors_of(&model.join(path));
        change(&mut tensors);
        write(&model.join(path), &tensors, &BTreeMap::new()).unwrap();
    };
    Case::model(name, &format!("model/{path}`"), change, says)
}

/// The VAE of `folder`'s model without one of its tensors.
fn write_vae_without_bias(folder: &Path, to: &str) {
    let mut tensors = tensors_of(&folder.join("model").join(VAE));
    tensors.retain(|tensor| tensor.name != "quant_conv.bias");
    write(&folder.join(to), &tensors, &BTreeMap::new()).unwrap();
}

pub fn cases() -> Vec<Case> {
    let without =
        |part: &'static str| move |tensors: &mut Vec<TensorEntry>| tensors.retain(|tensor| !tensor.name.contains(part));
    let shaped = |tensor: &'static str, shape: &'static [usize]| {
        move |tensors: &mut Vec<TensorEntry>| {
            tensors.retain(|there| there.name != tensor);
            tensors.push(zeros(tensor, shape));
        }
    };
    let of_another = |name: &str, key: &'static str, value: serde_json::Value, says: &str| {
        let change = move |model: &Path| set(&model.join("unet/config.json"), key, &value);
        Case::model(name, &format!("model/{UNET}` does not fit the model"), change, says)
    };
    let scaled = |tensors: &mut Vec<TensorEntry>| tensors.push(zeros("conv_in.scale_weight", &[]));
    let extra =
        |tensors: &mut Vec<TensorEntry>| tensors.push(zeros("down_blocks.0.motion_modules.0.norm.weight", &[8]));
    let several = |tensors: &mut Vec<TensorEntry>| {
        tensors.retain(|tensor| !tensor.name.starts_with("conv_in."));
        tensors.push(zeros("conv_inn.weight", &[8]));
        tensors.retain(|tensor| tensor.name != "conv_out.bias");
        tensors.push(zeros("conv_out.bias", &[5]));
    };
    let look_alike = |tensors: &mut Vec<TensorEntry>| tensors.push(zeros("conv_in.bias\u{301}", &[8]));
    let removed = |name: &str, path: &'static str, says: &str| {
        Case::model(name, "model", move |model| fs::remove_file(model.join(path)).unwrap(), says)
    };
    let swapped = |model: &Path| {
        fs::copy(model.join(VAE), model.join(UNET)).unwrap();
    };
    let swapped_text = |model: &Path| {
        fs::copy(model.join(UNET), model.join(TEXT)).unwrap();
    };
    let swapped_vae = |model: &Path| {
        fs::copy(model.join(TEXT), model.join(VAE)).unwrap();
    };
    let of_sd2 = |model: &Path| {
        let others = fixture("tiny_sd2");
        fs::remove_dir_all(model.join("unet")).unwrap();
        copy_folder(&others.join("unet"), &model.join("unet"));
        fs::copy(fixture("tiny_sd1/unet/config.json"), model.join("unet/config.json")).unwrap();
    };
    let other_vae = |name: &str, vae: &str, file: &str, make: fn(&Path)| {
        let set = format!("model.vae=\"{vae}\"");
        Case::with_good_model(
            name,
            &format!("{file}` does not fit the model: 1 missing"),
            "",
            make,
            "missing: quant_conv.bias [8]",
        )
        .arguments(&["check", "run.toml", "--set", &set])
    };
    let single = |name: &str, make: fn(&Path), says: &str| {
        let make = move |folder: &Path| {
            fs::remove_dir_all(folder.join("model")).unwrap();
            make(&folder.join("model"));
        };
        Case::with_good_model(name, "model`", "", make, says)
    };
    vec![
        case("one tensor missing", UNET, without("conv_in.bias"), "1 missing")
            .and("missing: conv_in.bias [8]")
            .and("incomplete"),
        case("forty tensors missing", UNET, without("mid_block."), "missing: … and ").and("mid_block."),
        case("all attention missing", UNET, without("attn2"), "missing: … and "),
        case("a tensor too many", UNET, extra, "1 unexpected")
            .and("unexpected: down_blocks.0.motion_modules.0.norm.weight"),
        case("a tensor of a look-alike name", UNET, look_alike, "1 unexpected"),
        case(
            "a tensor of another shape",
            UNET,
            shaped("conv_in.bias", &[9]),
            "wrong shape: conv_in.bias is [9], not [8]",
        ),
        case("missing, extra and misshapen at once", UNET, several, "2 missing, 1 unexpected, 1 of the wrong shape"),
        case("a UNet that reads the states of SD2", UNET, shaped(CONTEXT, &[16, 1024]), "fits the SD2 family better"),
        case("a UNet that reads the states of SDXL", UNET, shaped(CONTEXT, &[16, 2048]), "fits the SDXL family better"),
        case("8-bit weights with scales", UNET, scaled, "8-bit weights with scales beside them"),
        case("a VAE without its decoder", VAE, without("decoder."), "missing: … and "),
        case("a VAE of other latents", VAE, shaped("quant_conv.bias", &[16]), "quant_conv.bias is [16], not [8]"),
        case("a text encoder without a layer", TEXT, without("layers.2."), "missing: … and "),
        case(
            "a text encoder of more words",
            TEXT,
            shaped("text_model.embeddings.token_embedding.weight", &[601, 32]),
            "is [601, 32], not [600, 32]",
        ),
        of_another(
            "a configuration of a wider network",
            "block_out_channels",
            json!([8, 32]),
            "the `config.json` belongs to another model",
        ),
        of_another("a configuration of a deeper network", "layers_per_block", json!(2), "missing"),
        of_another("a configuration of linear projections", "cross_attention_dim", json!(64), "of the wrong shape"),
        Case::model("a VAE in place of the UNet", UNET, swapped, "holds no UNet"),
        Case::model("a UNet in place of the text encoder", TEXT, swapped_text, "holds no text encoder"),
        Case::model("a text encoder in place of the VAE", VAE, swapped_vae, "holds no VAE"),
        Case::model("the UNet of another family", UNET, of_sd2, "does not fit the model"),
        other_vae("another VAE that lacks a tensor, a file", "vae.safetensors", "vae.safetensors", |folder| {
            write_vae_without_bias(folder, "vae.safetensors");
        }),
        other_vae("another VAE that lacks a tensor, a folder", "vae", VAE, |folder| {
            copy_folder(&folder.join("model/vae"), &folder.join("vae"));
            write_vae_without_bias(folder, VAE);
        }),
        removed("a model without weights of its UNet", UNET, "model/unet`: looked for"),
        removed("a model without weights of its VAE", VAE, "model/vae`: looked for"),
        single(
            "a LoRA for a model",
            |to| {
                fs::copy(fixture("lora_kohya.safetensors"), to).unwrap();
            },
            "training starts from a model",
        ),
        single(
            "a learned word for a model",
            |to| {
                fs::copy(fixture("embedding_kohya.safetensors"), to).unwrap();
            },
            "training starts from a model",
        ),
        single(
            "golden numbers for a model",
            |to| {
                fs::copy(fixture("ema.safetensors"), to).unwrap();
            },
            "training starts from a model",
        ),
        single(
            "a single file of sizes that nobody can know",
            |to| {
                let tensors = tensors_of(&fixture("tiny_sd1.safetensors"));
                write(to, &tensors, &BTreeMap::new()).unwrap();
            },
            "does not fit the model",
        ),
    ]
}
