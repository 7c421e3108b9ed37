//! Configurations of wrong types, of sizes that nobody has, or of other networks.

use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::corpus::Case;

/// Sets a key of a JSON file.
pub fn set(path: &Path, key: &str, value: &Json) {
    let mut config: Json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    config[key] = value.clone();
    fs::write(path, config.to_string()).unwrap();
}

/// A model with this in place of a key of `part`'s configuration.
fn case(name: &str, part: &'static str, key: &'static str, value: Json, says: &str) -> Case {
    let change = move |model: &Path| set(&model.join(part).join("config.json"), key, &value);
    Case::model(name, &format!("model/{part}"), change, says)
}

/// A model with this file.
fn file(name: &str, path: &'static str, content: impl Into<Vec<u8>>, says: &str) -> Case {
    let content = content.into();
    Case::model(name, "model", move |model| fs::write(model.join(path), &content).unwrap(), says)
}

pub fn cases() -> Vec<Case> {
    let without = |name: &str, path: &'static str, says: &str| {
        Case::model(name, "model", move |model| fs::remove_file(model.join(path)).unwrap(), says)
    };
    let no_size = "which is no size";
    vec![
        case("a text for a number", "unet", "in_channels", json!("4"), no_size),
        case("a text for a width", "unet", "cross_attention_dim", json!("32"), no_size),
        case("a list for a width", "unet", "cross_attention_dim", json!([32, 32]), no_size),
        case("half a width", "unet", "cross_attention_dim", json!(32.5), "= 32.5 is not a number from 1"),
        case(
            "a negative width",
            "unet",
            "cross_attention_dim",
            json!(-32),
            "`cross_attention_dim` = -32 is not a number from 1",
        ),
        case(
            "a width of nothing",
            "unet",
            "cross_attention_dim",
            json!(0),
            "`cross_attention_dim` = 0 is not a number from 1",
        ),
        case("a width of 2^63", "unet", "cross_attention_dim", json!(1u64 << 63), "is not a number from 1 to 1000000"),
        case(
            "a billion layers",
            "unet",
            "layers_per_block",
            json!(1_000_000_000),
            "`layers_per_block` = 1000000000 is not a number from 1 to 100",
        ),
        case(
            "a trillion layers of a level",
            "unet",
            "layers_per_block",
            json!([1, 1_000_000_000_000i64]),
            "is not a number from 1 to 100",
        ),
        case(
            "layers of a level too many",
            "unet",
            "layers_per_block",
            json!([1, 1, 1]),
            "`layers_per_block` has 3 entries for 2 levels",
        ),
        case(
            "ten thousand transformers",
            "unet",
            "transformer_layers_per_block",
            json!(10_000),
            "is not a number from 1 to 100",
        ),
        case("a network without levels", "unet", "block_out_channels", json!([]), "`block_out_channels` is empty"),
        case(
            "a number for the levels",
            "unet",
            "block_out_channels",
            json!(8),
            "`block_out_channels` is 8, not a list of sizes",
        ),
        case("a hundred levels", "unet", "block_out_channels", json!(vec![8; 100]), "has 100 entries; 16 are the most"),
        case("a level of words", "unet", "block_out_channels", json!(["a", "b"]), no_size),
        case(
            "a block that nobody knows",
            "unet",
            "down_block_types",
            json!(["AttnDownBlock2D", "DownBlock2D"]),
            "which is not supported; known:",
        ),
        case("a block of a number", "unet", "up_block_types", json!([1, 2]), "which is not supported; known:"),
        case("a block too few", "unet", "up_block_types", json!(["UpBlock2D"]), "has 1 entries for 2 levels"),
        case("blocks in one word", "unet", "down_block_types", json!("DownBlock2D"), "not a list of names"),
        case("blocks that are not named", "unet", "down_block_types", json!(null), "`down_block_types` is missing"),
        case("a number for a switch", "unet", "use_linear_projection", json!(1), "neither true nor false"),
        case(
            "a condition without its width",
            "unet",
            "addition_embed_type",
            json!("text_time"),
            "`projection_class_embeddings_input_dim`",
        ),
        case("a VAE of no latents", "vae", "latent_channels", json!(0), "`latent_channels` = 0 is not a number from 1"),
        case("a VAE of a million layers", "vae", "layers_per_block", json!(1_000_000), "is not a number from 1 to 100"),
        case("a word for a switch of a VAE", "vae", "use_quant_conv", json!("no"), "neither true nor false"),
        case(
            "a text encoder of no words",
            "text_encoder",
            "vocab_size",
            json!(0),
            "`vocab_size` = 0 is not a number from 1",
        ),
        case(
            "a text encoder of a thousand layers",
            "text_encoder",
            "num_hidden_layers",
            json!(1000),
            "is not a number from 1 to 100",
        ),
        case("a width that is true", "text_encoder", "hidden_size", json!(true), no_size),
        Case::model(
            "a model with five input channels",
            "model`",
            |model| set(&model.join("unet/config.json"), "in_channels", &json!(5)),
            "5 input channels",
        ),
        file("a configuration that stops", "unet/config.json", "{\"in_channels\":", "unet/config.json"),
        file("a configuration that is empty", "vae/config.json", "", "vae/config.json"),
        file("a configuration that is no UTF-8", "unet/config.json", b"{\"a\":\"\xff\"}", "unet/config.json"),
        file("NaN in a configuration", "unet/config.json", "{\"norm_eps\": NaN}", "unet/config.json"),
        file("a configuration nested 100 000 deep", "vae/config.json", b"[".repeat(100_000), "recursion limit"),
        file("an index that stops in a model", "model_index.json", "{", "model_index.json"),
        file(
            "a pipeline of another kind",
            "model_index.json",
            r#"{"_class_name":"FluxPipeline"}"#,
            "is a `FluxPipeline`",
        ),
        file(
            "a text encoder of another kind",
            "model_index.json",
            r#"{"_class_name":"StableDiffusionPipeline","text_encoder":["transformers","T5EncoderModel"]}"#,
            "with a `T5EncoderModel`",
        ),
        without("a model without its index", "model_index.json", "it has no `model_index.json`"),
        without("a model without the UNet's configuration", "unet/config.json", "unet/config.json"),
        without("a model without the VAE's configuration", "vae/config.json", "vae/config.json"),
    ]
}
