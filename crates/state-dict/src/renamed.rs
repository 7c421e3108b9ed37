//! A reader behind a key map: other names, and shapes that differ by dimensions of one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::reader::{Reader, TensorInfo, no_such_tensor};

/// Another reader's tensors under other names. The bytes are those of the other reader.
pub struct Renamed<R> {
    inner: R,
    tensors: BTreeMap<String, (String, TensorInfo)>,
    metadata: BTreeMap<String, String>,
}

impl<R: Reader> Renamed<R> {
    /// Asks `map` for the new name and shape of every tensor; those it answers with `None` are left out.
    pub fn new(inner: R, map: impl Fn(&str, &TensorInfo) -> Option<(String, Vec<usize>)>) -> Result<Renamed<R>> {
        let mut tensors: BTreeMap<String, (String, TensorInfo)> = BTreeMap::new();
        for name in inner.names() {
            let info = inner.info(name).expect("a listed tensor has its info");
            let Some((new_name, shape)) = map(name, info) else {
                continue;
            };
            let new_info = TensorInfo { dtype: info.dtype, shape };
            debug_assert_eq!(new_info.elements(), info.elements(), "{name}");
            if let Some((earlier, _)) = tensors.get(&new_name) {
                return Err(Error::NameClash {
                    path: inner.path().to_path_buf(),
                    first: earlier.clone(),
                    second: name.to_string(),
                    name: new_name,
                });
            }
            tensors.insert(new_name, (name.to_string(), new_info));
        }
        let metadata = inner.metadata().clone();
        Ok(Renamed { inner, tensors, metadata })
    }

    /// The name that a tensor has in the reader behind this one.
    pub fn original_name(&self, name: &str) -> Option<&str> {
        self.tensors.get(name).map(|entry| entry.0.as_str())
    }

    /// The same tensors with other metadata.
    pub fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = metadata;
        self
    }
}

impl<R: Reader> Reader for Renamed<R> {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|entry| &entry.1)
    }

    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let Some((original, _)) = self.tensors.get(name) else {
            return Err(no_such_tensor(self.path(), name));
        };
        self.inner.bytes(original)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn name_in_file<'n>(&'n self, name: &'n str) -> &'n str {
        self.original_name(name).map_or(name, |original| self.inner.name_in_file(original))
    }
}
