//! Saves named tensors as a safetensors file: one tensor in memory at a time, equal content gives equal bytes, and a
//! file under its final name is always complete.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::Dtype;
use crate::error::{Error, Result};
use crate::header;
use crate::reader::{Reader, TensorInfo};

/// One tensor with its elements in memory, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements, row by row.
    pub bytes: Vec<u8>,
}

/// Something that can hand over its tensors one after the other, so that a model needs no second copy in memory.
pub trait TensorSource {
    /// Name, type and shape of every tensor, in any order.
    fn list(&self) -> Vec<(String, TensorInfo)>;

    /// The elements of one of them; called once per tensor, in the order of the file.
    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>>;
}

/// A reader as a source, to write its tensors to another file.
pub struct FromReader<'r>(pub &'r dyn Reader);

impl TensorSource for FromReader<'_> {
    fn list(&self) -> Vec<(String, TensorInfo)> {
        let info = |name: &str| self.0.info(name).expect("a listed tensor has its info").clone();
        self.0.names().into_iter().map(|name| (name.to_string(), info(name))).collect()
    }

    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        self.0.bytes(name)
    }
}

impl TensorSource for [TensorEntry] {
    fn list(&self) -> Vec<(String, TensorInfo)> {
        let info = |entry: &TensorEntry| TensorInfo { dtype: entry.dtype, shape: entry.shape.clone() };
        self.iter().map(|entry| (entry.name.clone(), info(entry))).collect()
    }

    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let entry = self.iter().find(|entry| entry.name == name).expect("only listed tensors are asked for");
        Ok(Cow::Borrowed(&entry.bytes))
    }
}

/// Saves tensors that are in memory. See [`write_source`].
pub fn write(path: &Path, tensors: &[TensorEntry], metadata: &BTreeMap<String, String>) -> Result<()> {
    write_source(path, tensors, metadata)
}

/// Saves tensors under a temporary name beside `path`, flushes them to the disk and renames. On any error the
/// temporary file is removed and whatever was at `path` is still there.
pub fn write_source<S: TensorSource + ?Sized>(
    path: &Path,
    source: &S,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let temporary = Temporary::beside(path);
    let save = |source| Error::Save { path: path.to_path_buf(), source };
    let file = File::create(&temporary.path).map_err(save)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    write_to(&mut writer, source, metadata).map_err(|error| match error {
        Error::Io { source, .. } => save(source),
        other => other,
    })?;
    let file = writer.into_inner().map_err(|error| save(error.into_error()))?;
    file.sync_all().map_err(save)?;
    temporary.publish(path).map_err(save)
}

/// Writes the bytes of a safetensors file to any destination.
pub fn write_to<S: TensorSource + ?Sized>(
    destination: &mut dyn Write,
    source: &S,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let layout = Layout::new(source.list(), metadata)?;
    let io = |source| Error::io("write", Path::new("safetensors stream"), source);
    destination.write_all(&layout.header).map_err(io)?;
    for (name, info) in &layout.order {
        let bytes = source.tensor_bytes(name)?;
        if bytes.len() != info.byte_length() {
            return Err(Error::BadEntry {
                tensor: name.clone(),
                reason: format!(
                    "shape {:?} and type {} need {} bytes but {} were given",
                    info.shape,
                    info.dtype,
                    info.byte_length(),
                    bytes.len()
                ),
            });
        }
        destination.write_all(&bytes).map_err(io)?;
    }
    destination.flush().map_err(io)
}

/// The header and the order of the data: by type, widest first, then by name.
pub(crate) struct Layout {
    pub(crate) header: Vec<u8>,
    pub(crate) order: Vec<(String, TensorInfo)>,
}

impl Layout {
    pub(crate) fn new(mut order: Vec<(String, TensorInfo)>, metadata: &BTreeMap<String, String>) -> Result<Layout> {
        order.sort_by(|(name_a, a), (name_b, b)| (a.dtype, name_a).cmp(&(b.dtype, name_b)));
        let mut names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(bad_entry(pair[0], "it is given twice"));
        }

        let mut json = String::from("{");
        if !metadata.is_empty() {
            json.push_str("\"__metadata__\":");
            json.push_str(&serde_json::to_string(metadata).expect("strings always serialise"));
        }
        let mut start = 0;
        for (name, info) in &order {
            header::check_name(name).map_err(|reason| bad_entry(name, &reason))?;
            if json.len() > 1 {
                json.push(',');
            }
            let end = start + info.byte_length();
            json.push_str(&serde_json::to_string(name).expect("strings always serialise"));
            json.push_str(&format!(
                ":{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{start},{end}]}}",
                info.dtype,
                serde_json::to_string(&info.shape).expect("integers always serialise"),
            ));
            start = end;
        }
        json.push('}');
        // Spaces fill the header so that the data begins at a multiple of eight.
        let padded = json.len().next_multiple_of(8);
        json.extend(std::iter::repeat_n(' ', padded - json.len()));

        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        Ok(Layout { header, order })
    }
}

fn bad_entry(tensor: &str, reason: &str) -> Error {
    Error::BadEntry { tensor: crate::error::shown(tensor), reason: reason.to_string() }
}

/// `.NAME.ending` in the folder of `path`.
pub(crate) fn hidden_beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

/// Makes a rename to `path` durable: it lives in the folder, and is on the disk once that is flushed.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// The folder that a path lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A file beside its final place that removes itself unless it is published.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    // The name is always the same for one destination, so what a killed run leaves is overwritten by the next.
    fn beside(path: &Path) -> Temporary {
        Temporary { path: hidden_beside(path, "partial") }
    }

    fn publish(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        sync_parent(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After `publish` there is nothing left to remove.
        let _ = fs::remove_file(&self.path);
    }
}
