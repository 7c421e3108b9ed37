//! Golden files: safetensors with inputs, outputs and weights, written by `scripts/fixtures`.

use std::env;
use std::path::{Path, PathBuf};

use sdtrain_state_dict::{Reader, SafetensorsFile, read_floats, read_integers};

/// The folder of golden files: `SDTRAIN_FIXTURES`, or `tests/fixtures` of the workspace.
pub fn fixture_folder() -> PathBuf {
    match env::var_os("SDTRAIN_FIXTURES") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

/// One golden file.
pub struct Fixture {
    file: SafetensorsFile,
}

impl Fixture {
    /// Opens a file of the fixture folder.
    #[track_caller]
    pub fn open(name: &str) -> Fixture {
        let path = fixture_folder().join(name);
        let file = SafetensorsFile::open(&path).unwrap_or_else(|error| panic!("{error}"));
        Fixture { file }
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.file.names()
    }

    /// What follows `prefix` in the names that begin with it.
    pub fn names_under(&self, prefix: &str) -> Vec<&str> {
        self.file.names().into_iter().filter_map(|name| name.strip_prefix(prefix)).collect()
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.file.info(name).is_some()
    }

    /// The shape of a tensor.
    #[track_caller]
    pub fn shape(&self, name: &str) -> Vec<usize> {
        let info = self.file.info(name).unwrap_or_else(|| panic!("{} has no `{name}`", self.file.path().display()));
        info.shape.clone()
    }

    /// The elements of a floating point tensor.
    #[track_caller]
    pub fn floats(&self, name: &str) -> Vec<f32> {
        read_floats(&self.file, name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The elements of an integer tensor.
    #[track_caller]
    pub fn integers(&self, name: &str) -> Vec<i64> {
        read_integers(&self.file, name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A string of the file's metadata.
    #[track_caller]
    pub fn metadata(&self, key: &str) -> &str {
        let value = self.file.metadata().get(key);
        value.unwrap_or_else(|| panic!("{} has no metadata `{key}`", self.file.path().display()))
    }

    /// A JSON value of the file's metadata, such as `config`. Python writes numbers that are not finite, which JSON
    /// has no way to; they are null here.
    #[track_caller]
    pub fn json(&self, key: &str) -> serde_json::Value {
        let text = self.metadata(key).replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("metadata `{key}`: {error}"))
    }

    /// The file itself.
    pub fn reader(&self) -> &SafetensorsFile {
        &self.file
    }
}
