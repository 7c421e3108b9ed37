//! One component of a diffusers folder, however its weights are stored.

use std::fs;
use std::path::Path;

use sdtrain_state_dict::{Dtype, Error, Reader, TensorEntry, open_component, write};

use crate::fixtures::{entry, no_metadata};

const STEM: &str = "diffusion_pytorch_model";

fn save(folder: &Path, name: &str, tensors: &[TensorEntry]) {
    write(&folder.join(name), tensors, &no_metadata()).unwrap();
}

fn refusal(folder: &Path) -> Error {
    match open_component(folder, STEM, None) {
        Ok(reader) => panic!("opened {:?}", reader.names()),
        Err(error) => error,
    }
}

#[test]
fn a_full_precision_file_is_preferred_over_fp16() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), "diffusion_pytorch_model.fp16.safetensors", &[entry("a", Dtype::F16, &[1])]);
    assert_eq!(open_component(folder.path(), STEM, None).unwrap().info("a").unwrap().dtype, Dtype::F16);
    save(folder.path(), "diffusion_pytorch_model.safetensors", &[entry("a", Dtype::F32, &[1])]);
    assert_eq!(open_component(folder.path(), STEM, None).unwrap().info("a").unwrap().dtype, Dtype::F32);
}

fn sharded(folder: &Path, index: &str, second: &str) {
    save(folder, "model-1.safetensors", &[entry("a", Dtype::F32, &[1])]);
    save(folder, second, &[entry("b", Dtype::F32, &[2]), entry("c", Dtype::F32, &[3])]);
    let map = format!(
        r#"{{"metadata":{{"total_size":24}},"weight_map":{{"a":"model-1.safetensors","b":"{second}","c":"{second}"}}}}"#
    );
    fs::write(folder.join(index), map).unwrap();
}

#[test]
fn shards_are_read_as_one() {
    for index in [
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
    ] {
        let folder = tempfile::tempdir().unwrap();
        sharded(folder.path(), index, "model-2.safetensors");
        let reader = open_component(folder.path(), STEM, None).unwrap();
        assert_eq!(reader.names(), ["a", "b", "c"]);
        assert_eq!(reader.bytes("c").unwrap().as_ref(), entry("c", Dtype::F32, &[3]).bytes);
        assert!(reader.bytes("d").is_err());
    }
}

#[test]
fn an_index_that_contradicts_its_shards_is_refused() {
    const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    sharded(path, INDEX, "model-2.safetensors");
    fs::remove_file(path.join("model-2.safetensors")).unwrap();
    assert!(refusal(path).to_string().ends_with("the shard `model-2.safetensors` is missing"));
    save(path, "model-2.safetensors", &[entry("b", Dtype::F32, &[2])]);
    assert!(refusal(path).to_string().ends_with("1 listed tensors are in no shard, the first is `c`"));
    save(path, "model-2.safetensors", &["a", "b", "c"].map(|name| entry(name, Dtype::F32, &[2])));
    assert!(matches!(refusal(path), Error::NameClash { name, .. } if name == "a"));
    for name in ["../model-2.safetensors", "/model-2.safetensors", "", ".."] {
        fs::write(path.join(INDEX), format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#)).unwrap();
        assert!(refusal(path).to_string().contains("is not a plain file name"), "{name}");
    }
    fs::write(path.join(INDEX), "{}").unwrap();
    assert!(refusal(path).to_string().contains("not a shard index"));
    fs::write(path.join(INDEX), r#"{"weight_map":{}}"#).unwrap();
    assert!(refusal(path).to_string().contains("lists no tensors"));
}

#[test]
fn a_folder_without_weights_is_told_apart_from_one_with_broken_ones() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(refusal(folder.path()).hint().unwrap(), "the folder is empty");
    assert_eq!(refusal(&folder.path().join("unet")).hint().unwrap(), "there is no such folder");
    let error = refusal(folder.path()).to_string();
    assert!(error.contains("looked for `diffusion_pytorch_model.safetensors`"), "{error}");
    assert!(error.contains("`diffusion_pytorch_model.bin`"), "{error}");
    fs::write(folder.path().join("diffusion_pytorch_model.bin"), "").unwrap();
    let error = refusal(folder.path());
    assert!(error.to_string().contains("is not a usable PyTorch file"), "{error}");
    assert!(error.hint().unwrap().contains("the download may be incomplete"));
}
