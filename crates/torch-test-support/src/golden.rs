//! A golden file whose arrays are tensors.

use sdtrain_state_dict::{Dtype, Reader, Renamed, SafetensorsFile};
use sdtrain_test_support::Fixture;
use serde_json::Value;
use tch::Tensor;

/// One golden file: `weights.…`, `input.…`, `output.…` and the configuration they were made from.
pub struct Golden(Fixture);

impl Golden {
    /// Opens a file of the fixture folder.
    #[track_caller]
    pub fn open(name: &str) -> Golden {
        Golden(Fixture::open(name))
    }

    /// The tensor `name` on the CPU, as f32 or i64 whatever it is stored as; `None` where the file has none.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        let info = self.0.reader().info(name)?;
        let shape: Vec<i64> = info.shape.iter().map(|&length| length as i64).collect();
        let flat = match info.dtype {
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16 => Tensor::from_slice(&self.0.floats(name)),
            _ => Tensor::from_slice(&self.0.integers(name)),
        };
        Some(flat.reshape(shape))
    }

    /// Likewise, of a tensor that every file of this kind has.
    #[track_caller]
    pub fn tensor(&self, name: &str) -> Tensor {
        self.find(name).unwrap_or_else(|| panic!("{} has no `{name}`", self.0.reader().path().display()))
    }

    /// What follows `prefix` in the names that begin with it, sorted.
    pub fn names_under(&self, prefix: &str) -> Vec<&str> {
        self.0.names_under(prefix)
    }

    /// The tensors under `prefix` (`weights.`) by the rest of their names, for a network to load.
    pub fn under(&self, prefix: &str) -> Renamed<&SafetensorsFile> {
        let rest = |name: &str| name.strip_prefix(prefix).map(str::to_string);
        Renamed::new(self.0.reader(), |name, info| Some((rest(name)?, info.shape.clone())))
            .expect("names stay different")
    }

    /// A string of the file's metadata.
    #[track_caller]
    pub fn metadata(&self, key: &str) -> &str {
        self.0.metadata(key)
    }

    /// The configuration, or each case's, that the file was made from.
    #[track_caller]
    pub fn config(&self) -> Value {
        self.0.json("config")
    }
}
