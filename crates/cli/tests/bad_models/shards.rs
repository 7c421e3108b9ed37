//! Indices that name what is not there, lies elsewhere or says otherwise.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::corpus::Case;
use crate::safetensors::with_header;

const WHOLE: &str = "unet/diffusion_pytorch_model.safetensors";
const INDEX: &str = "unet/diffusion_pytorch_model.safetensors.index.json";

/// A model whose UNet is one shard and whose index is this.
fn case(name: &str, index: impl Into<Vec<u8>>, says: &str) -> Case {
    let index = index.into();
    let change = move |model: &Path| {
        fs::rename(model.join(WHOLE), model.join("unet/a.safetensors")).unwrap();
        fs::write(model.join(INDEX), &index).unwrap();
    };
    Case::model(name, "diffusion_pytorch_model.safetensors.index.json", change, says)
}

fn of(tensor: &str, shard: &str) -> String {
    json!({"weight_map": {"conv_in.weight": "a.safetensors", tensor: shard}}).to_string()
}

pub fn cases() -> Vec<Case> {
    let twice = |model: &Path| {
        fs::rename(model.join(WHOLE), model.join("unet/a.safetensors")).unwrap();
        fs::copy(model.join("unet/a.safetensors"), model.join("unet/b.safetensors")).unwrap();
        fs::write(model.join(INDEX), of("conv_in.bias", "b.safetensors")).unwrap();
    };
    let broken = |model: &Path| {
        fs::rename(model.join(WHOLE), model.join("unet/a.safetensors")).unwrap();
        fs::write(model.join("unet/b.safetensors"), with_header("{}", 3)).unwrap();
        fs::write(model.join(INDEX), of("conv_in.bias", "b.safetensors")).unwrap();
    };
    let folder = |model: &Path| {
        fs::rename(model.join(WHOLE), model.join("unet/a.safetensors")).unwrap();
        fs::create_dir(model.join("unet/b.safetensors")).unwrap();
        fs::write(model.join(INDEX), of("conv_in.bias", "b.safetensors")).unwrap();
    };
    let not_plain = "is not a plain file name";
    vec![
        case("a shard up and out", of("conv_in.bias", "../unet/a.safetensors"), not_plain),
        case("a shard from the root", of("conv_in.bias", "/etc/passwd"), not_plain),
        case("a shard with backslashes", of("conv_in.bias", r"..\a.safetensors"), not_plain),
        case("a shard without a name", of("conv_in.bias", ""), not_plain),
        case("a shard that is the folder", of("conv_in.bias", "."), not_plain),
        case("a shard that is missing", of("conv_in.bias", "b.safetensors"), "the shard `b.safetensors` is missing"),
        Case::model("a shard that is a folder", "index.json", folder, "the shard `b.safetensors` is missing"),
        Case::model("a tensor in two shards", "`conv_in.bias in", twice, "are both `conv_in.bias`"),
        Case::model("a shard that is broken", "b.safetensors", broken, "3 bytes follow after its last tensor"),
        case(
            "a tensor that is in no shard",
            of("conv_in.other", "a.safetensors"),
            "in no shard, the first is `conv_in.other`",
        ),
        case("an index of nothing", r#"{"weight_map":{}}"#, "lists no tensors"),
        case("an index without a map", "{}", "not a shard index"),
        case("an index that is a list", "[]", "not a shard index"),
        case("an index of numbers", r#"{"weight_map":{"a":1}}"#, "not a shard index"),
        case("an index that stops", r#"{"weight_map":{"a":"#, "not a shard index"),
        case("an index that is no UTF-8", b"{\"\xff\":1}", "not a shard index"),
        case("an index nested 100 000 deep", b"{\"weight_map\":".repeat(100_000), "not a shard index"),
    ]
}
