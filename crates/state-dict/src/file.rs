//! One safetensors file, mapped into memory after its header was checked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::header::{self, Header};
use crate::mapped::{Content, Mapped, open_regular};
use crate::reader::{Reader, TensorInfo, no_such_tensor};

/// A safetensors file whose every offset has been checked.
pub struct SafetensorsFile {
    path: PathBuf,
    content: Content,
    data_start: usize,
    tensors: BTreeMap<String, (TensorInfo, Range<usize>)>,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Checks the header of a file and maps the rest; tensors are read from disk when they are asked for.
    pub fn open(path: impl AsRef<Path>) -> Result<SafetensorsFile> {
        let path = path.as_ref();
        let (mut file, length) = open_regular(path)?;

        let mut start = Vec::new();
        let read = |source| Error::io("read", path, source);
        file.by_ref().take(64).read_to_end(&mut start).map_err(read)?;
        let header_length = header::header_length(path, &start, length)?;

        let content = Mapped::new(&file, path)?;
        let json = content.get(8..8 + header_length).ok_or_else(|| shrank(path))?;
        let header = header::parse(path, json, length)?;
        if content.len() as u64 != length {
            return Err(shrank(path));
        }
        Ok(Self::with_header(path, Content::Mapped(content), header))
    }

    /// The same for a file that is already in memory, such as one embedded in the program; `label` stands for its
    /// path in messages.
    pub fn from_bytes(content: impl Into<Cow<'static, [u8]>>, label: impl AsRef<Path>) -> Result<SafetensorsFile> {
        let (content, path) = (content.into(), label.as_ref());
        let length = content.len() as u64;
        let header_length = header::header_length(path, &content[..content.len().min(64)], length)?;
        let header = header::parse(path, &content[8..8 + header_length], length)?;
        Ok(Self::with_header(path, Content::Memory(content), header))
    }

    fn with_header(path: &Path, content: Content, header: Header) -> SafetensorsFile {
        SafetensorsFile {
            path: path.to_path_buf(),
            content,
            data_start: header.data_start,
            tensors: header.tensors,
            metadata: header.metadata,
        }
    }
}

impl Reader for SafetensorsFile {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|entry| &entry.0)
    }

    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let Some((info, place)) = self.tensors.get(name) else {
            return Err(no_such_tensor(&self.path, name));
        };
        self.content.hand_out(place.len());
        let bytes = &self.content[self.data_start..][place.clone()];
        // Files of early writers have headers of any length, so their tensors may lie at odd addresses.
        if bytes.as_ptr().addr().is_multiple_of(info.dtype.size()) {
            Ok(Cow::Borrowed(bytes))
        } else {
            Ok(Cow::Owned(bytes.to_vec()))
        }
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn shrank(path: &Path) -> Error {
    Error::BrokenFile {
        path: path.to_path_buf(),
        reason: "its length changed while it was being opened".to_string(),
        hint: None,
    }
}
