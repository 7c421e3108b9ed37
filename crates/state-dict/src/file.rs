//! One safetensors file: its header checked, its tensors mapped into memory, or read one by one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::access::Access;
use crate::error::{Error, Result};
use crate::header::{self, Header};
use crate::mapped::{Content, open_regular};
use crate::reader::{Reader, TensorInfo, no_such_tensor};

/// A safetensors file whose every offset has been checked.
pub struct SafetensorsFile {
    path: PathBuf,
    source: Source,
    data_start: usize,
    tensors: BTreeMap<String, (TensorInfo, Range<usize>)>,
    metadata: BTreeMap<String, String>,
}

/// Where the bytes are.
enum Source {
    /// Within reach.
    Whole(Content),
    /// In a file that may not be mapped: a tensor is read whenever it is asked for, so that no more than one is in memory.
    File(File),
}

impl Source {
    fn bytes(&self, place: Range<usize>, path: &Path) -> Result<Cow<'_, [u8]>> {
        match self {
            Source::Whole(content) => content.get(place).map(Cow::Borrowed).ok_or_else(|| changed(path)),
            Source::File(file) => {
                let mut bytes = vec![0u8; place.len()];
                let read = file.read_exact_at(&mut bytes, place.start as u64);
                read.map_err(|source| match source.kind() {
                    ErrorKind::UnexpectedEof => changed(path),
                    _ => Error::io("read", path, source),
                })?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

impl SafetensorsFile {
    /// Checks the header of a file; tensors are read from disk when they are asked for: through a memory map, unless the file
    /// lies on another machine.
    pub fn open(path: impl AsRef<Path>) -> Result<SafetensorsFile> {
        let path = path.as_ref();
        let (file, length) = open_regular(path)?;
        let access = Access::of(&file);
        Self::of_file(file, length, access, path)
    }

    fn of_file(file: File, length: u64, access: Access, path: &Path) -> Result<SafetensorsFile> {
        let mut start = Vec::new();
        let read = |source| Error::io("read", path, source);
        (&file).take(64).read_to_end(&mut start).map_err(read)?;
        let header_length = header::header_length(path, &start, length)?;

        let source = match access {
            Access::Mapped => Source::Whole(Content::whole(&file, access, path)?),
            Access::Read => Source::File(file),
        };
        let header = header::parse(path, &source.bytes(8..8 + header_length, path)?, length)?;
        match &source {
            Source::Whole(content) if content.len() as u64 != length => Err(changed(path)),
            _ => Ok(Self::with_header(path, source, header)),
        }
    }

    /// The same for a file that is already in memory, such as one embedded in the program; `label` stands for its
    /// path in messages.
    pub fn from_bytes(content: impl Into<Cow<'static, [u8]>>, label: impl AsRef<Path>) -> Result<SafetensorsFile> {
        let (content, path) = (content.into(), label.as_ref());
        let length = content.len() as u64;
        let header_length = header::header_length(path, &content[..content.len().min(64)], length)?;
        let header = header::parse(path, &content[8..8 + header_length], length)?;
        Ok(Self::with_header(path, Source::Whole(Content::Memory(content)), header))
    }

    fn with_header(path: &Path, source: Source, header: Header) -> SafetensorsFile {
        SafetensorsFile {
            path: path.to_path_buf(),
            source,
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
        if let Source::Whole(content) = &self.source {
            content.hand_out(place.len());
        }
        let place = self.data_start + place.start..self.data_start + place.end;
        let bytes = self.source.bytes(place, &self.path)?;
        // Files of early writers have headers of any length, so their tensors may lie at odd addresses.
        match bytes.as_ptr().addr().is_multiple_of(info.dtype.size()) {
            true => Ok(bytes),
            false => Ok(Cow::Owned(bytes.to_vec())),
        }
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn changed(path: &Path) -> Error {
    Error::BrokenFile {
        path: path.to_path_buf(),
        reason: "its length changed while it was being read".to_string(),
        hint: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, TensorEntry, write_to};

    /// A file of 1024 whole numbers of 64 bits each in `a` and `b`.
    fn written(folder: &Path) -> PathBuf {
        let bytes = |first: u8| (0..8192usize).map(|index| first.wrapping_add(index as u8)).collect::<Vec<u8>>();
        let tensor = |name: &str, first: u8| TensorEntry {
            name: name.to_string(),
            dtype: Dtype::I64,
            shape: vec![1024],
            bytes: bytes(first),
        };
        let path = folder.join("model.safetensors");
        let mut file = File::create(&path).unwrap();
        let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        write_to(&mut file, &[tensor("a", 1), tensor("b", 2)][..], &metadata).unwrap();
        path
    }

    fn opened(path: &Path, access: Access) -> SafetensorsFile {
        let (file, length) = open_regular(path).unwrap();
        SafetensorsFile::of_file(file, length, access, path).unwrap()
    }

    #[test]
    fn what_is_read_is_what_a_map_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let (mapped, read) = (opened(&path, Access::Mapped), opened(&path, Access::Read));
        assert_eq!((mapped.names(), mapped.metadata()), (read.names(), read.metadata()));
        for name in ["b", "a", "b"] {
            assert_eq!(mapped.info(name), read.info(name));
            assert_eq!(mapped.bytes(name).unwrap(), read.bytes(name).unwrap(), "{name}");
        }
        assert!(matches!(mapped.bytes("a"), Ok(Cow::Borrowed(_))));
        assert!(matches!(read.bytes("a"), Ok(Cow::Owned(_))));
        assert!(read.bytes("c").is_err());
    }

    /// TensorRT-LLM#17368: SIGBUS where another machine cuts off or replaces a file that is mapped.
    #[test]
    fn tensorrt_llm_17368_a_file_that_is_cut_off_under_its_reader_is_an_error_and_not_the_end_of_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let read = opened(&path, Access::Read);
        let half = std::fs::metadata(&path).unwrap().len() - 8192;
        File::options().write(true).open(&path).unwrap().set_len(half).unwrap();
        assert_eq!(read.bytes("a").unwrap()[0], 1);
        let error = read.bytes("b").expect_err("it is not there any more").to_string();
        assert!(error.contains("its length changed while it was being read"), "{error}");
    }

    #[test]
    fn a_file_that_is_deleted_under_its_reader_is_read_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let read = opened(&path, Access::Read);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read.bytes("b").unwrap()[0], 2);
    }
}
