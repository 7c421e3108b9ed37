//! Recorded arrays and how near to them a result must be.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;
use tch::{Kind, Tensor};

/// The folder of fixtures: `SDTRAIN_FIXTURES`, or the repository's own.
pub fn folder() -> PathBuf {
    match std::env::var_os("SDTRAIN_FIXTURES") {
        Some(folder) => folder.into(),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")),
    }
}

/// A safetensors file of `input.…` and `output.…` with the configuration it was made from.
pub struct Fixture {
    name: &'static str,
    tensors: HashMap<String, Tensor>,
    /// Its `config` metadata.
    pub config: Value,
}

impl Fixture {
    pub fn open(name: &'static str) -> Self {
        let path = folder().join(name);
        let tensors = Tensor::read_safetensors(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let bytes = std::fs::read(&path).expect("it was just read");
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a safetensors header is JSON");
        let config = header["__metadata__"]["config"].as_str().expect("every fixture says what it was made from");
        Fixture { name, tensors: tensors.into_iter().collect(), config: serde_json::from_str(config).expect("JSON") }
    }

    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    pub fn tensor(&self, name: &str) -> &Tensor {
        self.find(name).unwrap_or_else(|| panic!("`{}` has no `{name}`", self.name))
    }
}

/// Fails, saying where, unless every difference is within `tolerance` of the largest expected magnitude.
/// Returns the largest difference in that measure.
pub fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) -> f64 {
    assert_eq!(found.size(), expected.size(), "{what}: shape");
    let (found, expected) = (found.to_kind(Kind::Double).flatten(0, -1), expected.to_kind(Kind::Double).flatten(0, -1));
    assert!(found.isfinite().all().int64_value(&[]) == 1, "{what}: not finite");
    let difference = (&found - &expected).abs() / expected.abs().max().clamp_min(1e-30);
    let (largest, index) = (difference.max().double_value(&[]), difference.argmax(0, false).int64_value(&[]));
    assert!(
        largest <= tolerance,
        "{what}: differs by {largest:.2e} of the largest value at {index}: {} instead of {}; tolerance {tolerance:.0e}",
        found.double_value(&[index]),
        expected.double_value(&[index]),
    );
    largest
}
