//! What is saved reads back, byte for byte the same each time, and failures leave nothing behind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;

use sdtrain_state_dict::{
    Dtype, Error, Reader, Result, SafetensorsFile, TensorEntry, TensorInfo, TensorSource, write, write_source, write_to,
};
use sha2::{Digest, Sha256};

use crate::fixtures::{bytes_of, entry, no_metadata};

fn tensors() -> Vec<TensorEntry> {
    vec![
        entry("b.weight", Dtype::F16, &[3, 5]),
        entry("a.weight", Dtype::F32, &[2, 2]),
        entry("a.bias", Dtype::Bf16, &[1]),
        entry("step", Dtype::I64, &[]),
        entry("mask", Dtype::Bool, &[3]),
        entry("empty", Dtype::F32, &[0, 4]),
    ]
}

#[test]
fn what_is_saved_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let metadata: BTreeMap<String, String> = [("title", "a \"quoted\"\nünïcode title"), ("b", "")]
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .into();
    write(&path, &tensors(), &metadata).unwrap();
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.metadata(), &metadata);
    assert_eq!(file.names(), ["a.bias", "a.weight", "b.weight", "empty", "mask", "step"]);
    for tensor in tensors() {
        let info = file.info(&tensor.name).unwrap();
        assert_eq!((info.dtype, &info.shape), (tensor.dtype, &tensor.shape));
        let bytes = file.bytes(&tensor.name).unwrap();
        assert_eq!(bytes.as_ref(), tensor.bytes);
        assert!(matches!(bytes, Cow::Borrowed(_)), "{} is aligned in the file", tensor.name);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn equal_content_gives_equal_bytes_in_whatever_order_it_comes() {
    let metadata: BTreeMap<String, String> = (0..20).map(|n| (format!("key{n}"), n.to_string())).collect();
    let mut bytes = Vec::new();
    write_to(&mut bytes, tensors().as_slice(), &metadata).unwrap();
    let mut reversed = Vec::new();
    write_to(&mut reversed, tensors().into_iter().rev().collect::<Vec<_>>().as_slice(), &metadata).unwrap();
    assert_eq!(bytes, reversed);
    let again = SafetensorsFile::from_bytes(bytes.clone(), "x").unwrap();
    assert_eq!(bytes_of(&again), bytes);
}

#[test]
fn the_layout_is_that_of_the_reference_implementation() {
    // safetensors 0.8.0: `safetensors.numpy.save({f"t{i}": numpy.zeros(i, dtype) for i, dtype in enumerate(…)})`
    // over the types in the order below.
    use Dtype::*;
    let types = [Bool, U8, I8, I16, U16, F16, I32, U32, F32, F64, I64, U64];
    let zeros = |(count, dtype): (usize, Dtype)| TensorEntry {
        name: format!("t{count}"),
        dtype,
        shape: vec![count],
        bytes: vec![0; count * dtype.size()],
    };
    let tensors: Vec<_> = types.into_iter().enumerate().map(zeros).collect();
    let mut bytes = Vec::new();
    write_to(&mut bytes, tensors.as_slice(), &no_metadata()).unwrap();
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, "ea7414a00866def77d66d7fdbc89f62c1eb2cf3ac7fd15231c4ceeae348ca6c8");
}

#[test]
fn contradictory_entries_are_refused() {
    let mut bytes = Vec::new();
    let twice = [entry("a", Dtype::F32, &[1]), entry("a", Dtype::F16, &[1])];
    let error = write_to(&mut bytes, twice.as_slice(), &no_metadata()).unwrap_err();
    assert_eq!(error.to_string(), "cannot save tensor `a`: it is given twice");
    let mut short = entry("a", Dtype::F32, &[2]);
    short.bytes.pop();
    let error = write_to(&mut bytes, [short].as_slice(), &no_metadata()).unwrap_err();
    assert_eq!(error.to_string(), "cannot save tensor `a`: shape [2] and type F32 need 8 bytes but 7 were given");
    let error = write_to(&mut bytes, [entry("../a", Dtype::F32, &[2])].as_slice(), &no_metadata()).unwrap_err();
    assert!(error.to_string().contains("leads out of its folder"));
}

struct FailsLater;

impl TensorSource for FailsLater {
    fn list(&self) -> Vec<(String, TensorInfo)> {
        let info = |name: &str| (name.to_string(), TensorInfo { dtype: Dtype::U8, shape: vec![4] });
        vec![info("a"), info("b")]
    }

    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match name {
            "a" => Ok(Cow::Owned(vec![1, 2, 3, 4])),
            other => Err(Error::BadEntry { tensor: other.to_string(), reason: "the device is gone".to_string() }),
        }
    }
}

#[test]
fn a_failed_save_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &tensors(), &no_metadata()).unwrap();
    let before = fs::read(&path).unwrap();
    write_source(&path, &FailsLater, &no_metadata()).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_save_into_a_missing_folder_is_a_storage_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/model.safetensors");
    let error = write(&path, &tensors(), &no_metadata()).unwrap_err();
    assert!(error.is_storage());
    assert!(error.to_string().starts_with("cannot save `"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_storage_error_with_a_hint() {
    // Everything written to /dev/full fails as on a full disk.
    let mut full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = write_to(&mut full, tensors().as_slice(), &no_metadata()).unwrap_err();
    let Error::Io { source, .. } = error else { panic!("{error}") };
    let error = Error::Save { path: "model.safetensors".into(), source };
    assert!(error.is_storage());
    assert!(error.hint().unwrap().contains("free some space"));
}

#[test]
fn replacing_a_file_leaves_its_open_map_intact() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &[entry("a", Dtype::F32, &[1000])], &no_metadata()).unwrap();
    let open = SafetensorsFile::open(&path).unwrap();
    write(&path, &[entry("b", Dtype::F32, &[1])], &no_metadata()).unwrap();
    assert_eq!(open.bytes("a").unwrap().as_ref(), entry("a", Dtype::F32, &[1000]).bytes);
    assert_eq!(SafetensorsFile::open(&path).unwrap().names(), ["b"]);
}
