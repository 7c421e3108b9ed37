//! A file that PyTorch wrote (`.ckpt`, `.pt`, `.bin`): a zip of storages beside a pickle, or the older form of pickles one after the other.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use zip::ZipArchive;

use crate::access::Access;
use crate::error::{Error, Result};
use crate::header::{MAX_NAME_BYTES, MAX_TENSORS, check_name, foreign_format, incomplete};
use crate::mapped::{Content, open_regular};
use crate::module_list::with_names;
use crate::pickle::{self, ENDS_EARLY, Pickle, TensorView, Value};
use crate::reader::{Reader, TensorInfo, no_such_tensor};
use crate::zip_entries::{self, Entry};

/// A zip file.
pub(crate) const ZIP: &[u8] = b"PK\x03\x04";
/// The number that the older form begins with, as a pickle.
pub(crate) const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// The largest pickle of a zip: a model's has less than a megabyte, with an optimizer's state some.
const LARGEST_PICKLE: usize = 256 << 20;
/// Dictionaries inside dictionaries that are looked into.
const DEEPEST: usize = 4;
/// Bytes of all texts beside the tensors: a few bytes of a pickle can name one long text again and again.
const MOST_TEXT: usize = 16 << 20;

/// The tensors of a PyTorch file whose every offset has been checked. Names of nested dictionaries are joined by dots; of a checkpoint with a
/// `state_dict` only that is there; of a list the names are indices. Texts and whole numbers beside the tensors are its metadata.
pub struct TorchFile {
    path: PathBuf,
    content: Content,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

struct Tensor {
    info: TensorInfo,
    /// Its storage in the file.
    storage: Arc<Entry>,
    offset: usize,
    stride: Vec<usize>,
}

impl TorchFile {
    /// Reads what the file says of its tensors, and maps the rest; a file of another machine is read into memory. Nothing in it is
    /// run.
    ///
    /// # Errors
    /// Where it is no such file, is damaged, or its pickle asks for anything but tensors and plain containers.
    pub fn open(path: impl AsRef<Path>) -> Result<TorchFile> {
        let path = path.as_ref();
        let (file, _) = open_regular(path)?;
        TorchFile::of_content(Content::whole(&file, Access::of(&file), path)?, path)
    }

    /// The same for a file that is already in memory; `label` stands for its path in messages.
    ///
    /// # Errors
    /// As [`TorchFile::open`].
    pub fn from_bytes(content: impl Into<Cow<'static, [u8]>>, label: impl AsRef<Path>) -> Result<TorchFile> {
        TorchFile::of_content(Content::Memory(content.into()), label.as_ref())
    }

    fn of_content(content: Content, path: &Path) -> Result<TorchFile> {
        let refused = |refusal: Refusal| {
            let Refusal { reason, hint } = refusal;
            Error::BrokenTorchFile { path: path.to_path_buf(), reason, hint }
        };
        let (pickle, storages) = match () {
            _ if content.starts_with(ZIP) => from_zip(&content),
            _ if content.starts_with(LEGACY) => from_legacy(&content),
            _ => Err(foreign(&content)),
        }
        .map_err(refused)?;
        let mut found = Found::default();
        let state_dict = pickle.entries(&pickle.root).iter().find(|(key, _)| is_text(key, "state_dict"));
        let root = state_dict.map_or(&pickle.root, |(_, value)| value);
        found.collect(&pickle, root, "", DEEPEST).map_err(|reason| refused(reason.into()))?;
        found.list(&pickle, root).map_err(|reason| refused(reason.into()))?;
        if found.views.is_empty() {
            return Err(refused("it holds no tensors".into()));
        }
        let mut tensors = BTreeMap::new();
        for (name, view) in found.views {
            let tensor = check_name(&name).and_then(|()| checked(&view, &storages));
            let tensor = tensor.map_err(|reason| Error::BrokenTensor {
                path: path.to_path_buf(),
                tensor: crate::error::shown(&name),
                reason,
            })?;
            tensors.insert(name, tensor);
        }
        let metadata = texts(&pickle).map_err(|reason| refused(reason.into()))?;
        Ok(TorchFile { path: path.to_path_buf(), content, tensors, metadata })
    }
}

/// Why a file is refused, and the way out where one is known.
struct Refusal {
    reason: String,
    hint: Option<String>,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal { reason, hint: None }
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Refusal {
        reason.to_string().into()
    }
}

impl Refusal {
    /// Of a pickle that asks for too much.
    fn of_pickle(reason: String) -> Refusal {
        let hint = "only tensors in plain containers are read from pickles, and no code in them is run; a `.safetensors` file holds \
                    nothing else";
        Refusal { reason, hint: Some(hint.to_string()) }
    }

    /// Of bytes of a zip, `what`, that have another sum than when they were saved.
    fn damaged(what: &str) -> Refusal {
        let reason = format!("the bytes of `{what}` are not those that were saved: their CRC-32 is another");
        Refusal { reason, hint: Some("the file was damaged since; fetch or copy it again".to_string()) }
    }

    /// Of a file that ends too early.
    fn cut(reason: String) -> Refusal {
        Refusal { reason, hint: incomplete() }
    }
}

/// Of a file that does not begin as PyTorch's do.
fn foreign(content: &[u8]) -> Refusal {
    if content.is_empty() {
        return Refusal::cut("it is empty".to_string());
    }
    let reason = "it is neither a zip nor a pickle of PyTorch".to_string();
    match content[0] {
        // The start of every pickle since protocol 2.
        0x80 => Refusal::of_pickle(reason),
        _ => Refusal { reason, hint: foreign_format(content) },
    }
}

/// Where each storage lies in the file, by its key.
type Storages = HashMap<String, Arc<Entry>>;

fn from_zip(content: &[u8]) -> Result<(Pickle, Storages), Refusal> {
    // The directory lies at the end.
    let mut archive = ZipArchive::new(Cursor::new(content)).map_err(|error| Refusal::cut(error.to_string()))?;
    let mut entries = zip_entries::entries(&mut archive, content)?;
    let mut roots = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Err("it is a zip without exactly one `data.pkl`".into());
    };
    let root = root.to_string();
    let entry = |name: &str| -> Result<Option<&[u8]>, Refusal> {
        let Some(entry) = entries.get(&format!("{root}{name}")) else { return Ok(None) };
        entry.bytes(content).map(Some).ok_or_else(|| Refusal::damaged(name))
    };
    if entry("byteorder")?.is_some_and(|order| order.starts_with(b"big")) {
        return Err("its numbers have their highest byte first".into());
    }
    let pickled = entry("data.pkl")?.ok_or("it has no `data.pkl`")?;
    if pickled.len() > LARGEST_PICKLE {
        return Err(format!("its pickle has {} MB", pickled.len() >> 20).into());
    }
    let pickle = pickle::read(pickled).map_err(Refusal::of_pickle)?;
    let mut storages = Storages::new();
    for storage in &pickle.storages {
        if let Some(entry) = entries.remove(&format!("{root}data/{}", storage.key)) {
            storages.insert(storage.key.to_string(), Arc::new(entry));
        }
    }
    Ok((pickle, storages))
}

/// Magic number, version, machine, the object, the keys of its storages, and these in that order, each behind its length.
fn from_legacy(content: &[u8]) -> Result<(Pickle, Storages), Refusal> {
    let mut at = LEGACY.len();
    let mut next = || -> Result<Pickle, Refusal> {
        let rest = &content[at..];
        let pickle = pickle::read(&rest[..rest.len().min(LARGEST_PICKLE)]);
        let pickle = pickle.map_err(|reason| match reason.starts_with(ENDS_EARLY) {
            true => Refusal::cut(reason),
            false => Refusal::of_pickle(reason),
        })?;
        at += pickle.length;
        Ok(pickle)
    };
    let version = next()?;
    if !matches!(version.root, Value::Int(1001)) {
        return Err("it has another version than 1001".into());
    }
    let machine = next()?;
    if machine
        .entries(&machine.root)
        .iter()
        .any(|(key, value)| is_text(key, "little_endian") && matches!(value, Value::Bool(false)))
    {
        return Err("its numbers have their highest byte first".into());
    }
    let (object, keys) = (next()?, next()?);
    let dtypes: HashMap<&str, usize> =
        object.storages.iter().map(|storage| (&*storage.key, storage.dtype.size())).collect();
    let mut storages = Storages::new();
    for key in keys.values(&keys.root) {
        let Value::Text(key) = key else { return Err("a key of its storages is no text".into()) };
        let size = dtypes.get(&**key).ok_or("it has a storage that no tensor names")?;
        let length = content.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes));
        let start = at + 8;
        let bytes = length.and_then(|length| usize::try_from(length).ok()?.checked_mul(*size));
        let end = bytes.and_then(|bytes| start.checked_add(bytes)).filter(|end| *end <= content.len());
        at = end.ok_or_else(|| Refusal::cut(format!("{ENDS_EARLY} a storage")))?;
        storages.insert(key.to_string(), Arc::new(Entry::new(start..at, None)));
    }
    Ok((object, storages))
}

/// The texts and whole numbers beside the tensors.
fn texts(pickle: &Pickle) -> Result<BTreeMap<String, String>, String> {
    let (mut texts, mut bytes) = (BTreeMap::new(), 0);
    for (key, value) in pickle.entries(&pickle.root) {
        let value = match value {
            Value::Text(value) => value.clone(),
            Value::Int(number) => number.to_string().into(),
            _ => continue,
        };
        let Value::Text(key) = key else { continue };
        bytes += key.len() + value.len();
        if bytes > MOST_TEXT {
            return Err(format!("its texts have more than {} MB", MOST_TEXT >> 20));
        }
        texts.insert(key.to_string(), value.to_string());
    }
    Ok(texts)
}

fn is_text(value: &Value, text: &str) -> bool {
    matches!(value, Value::Text(there) if &**there == text)
}

/// Tensors by their paths.
#[derive(Default)]
struct Found {
    views: BTreeMap<String, Rc<TensorView>>,
    visited: usize,
}

impl Found {
    /// Takes in every tensor under `value`. Dictionaries that hold each other could have more paths than anybody can walk.
    fn collect(&mut self, pickle: &Pickle, value: &Value, prefix: &str, deepest: usize) -> Result<(), String> {
        const MOST_ENTRIES: usize = 1_000_000;
        for (key, value) in pickle.entries(value) {
            self.visited += 1;
            if self.visited > MOST_ENTRIES {
                return Err(format!("its dictionaries have more than {MOST_ENTRIES} entries"));
            }
            let Value::Text(key) = key else { continue };
            // A few bytes can name one long key again and again.
            let name = || match (prefix.len() + key.len()).cmp(&MAX_NAME_BYTES) {
                Ordering::Less if prefix.is_empty() => Ok(key.to_string()),
                Ordering::Less => Ok(format!("{prefix}.{key}")),
                _ => Err(format!("a name in it is longer than {MAX_NAME_BYTES} bytes")),
            };
            match value {
                Value::Tensor(view) => self.insert(name()?, view)?,
                Value::Dictionary(_) if deepest > 1 => self.collect(pickle, value, &name()?, deepest - 1)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Found {
    /// Takes in the tensors of a list, by their indices.
    fn list(&mut self, pickle: &Pickle, value: &Value) -> Result<(), String> {
        for (index, value) in pickle.values(value).iter().enumerate() {
            if let Value::Tensor(view) = value {
                self.insert(index.to_string(), view)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, name: String, view: &Rc<TensorView>) -> Result<(), String> {
        self.views.insert(name, view.clone());
        match self.views.len() > MAX_TENSORS {
            true => Err(format!("it holds more than {MAX_TENSORS} tensors")),
            false => Ok(()),
        }
    }
}

/// A tensor whose elements all lie in its storage.
fn checked(view: &TensorView, storages: &Storages) -> Result<Tensor, String> {
    let dtype = view.storage.dtype;
    let storage = storages.get(&*view.storage.key).ok_or("has no numbers in the file")?.clone();
    let length = storage.place.len();
    let there = length / dtype.size();
    if view.storage.elements.checked_mul(dtype.size()) != Some(length) {
        return Err(format!(
            "should lie in {} numbers of type {dtype}, but the file has {length} bytes of them",
            view.storage.elements
        ));
    }
    // An empty dimension must not hide absurd ones beside it.
    let fits = |all: usize, &length: &usize| all.checked_mul(length.max(1)).filter(|all| *all <= isize::MAX as usize);
    if view.shape.iter().try_fold(dtype.size(), fits).is_none() {
        return Err(format!("has the impossible shape {:?}", view.shape));
    }
    let elements: usize = view.shape.iter().product();
    if elements > there {
        return Err("has more numbers than the file holds of it".to_string());
    }
    if elements > 0 {
        let reach =
            view.shape.iter().zip(&view.stride).try_fold(view.offset, |reach, (&length, &stride)| {
                (length - 1).checked_mul(stride)?.checked_add(reach)
            });
        reach.filter(|reach| *reach < there).ok_or("reaches past its storage")?;
    }
    let info = TensorInfo { dtype, shape: view.shape.clone() };
    Ok(Tensor { info, storage, offset: view.offset, stride: view.stride.clone() })
}

impl Tensor {
    /// Whether its elements lie one behind the other, row by row.
    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.info.shape.iter().zip(&self.stride).rev().all(|(&length, &stride)| {
            let fits = length == 1 || stride == expected;
            expected *= length.max(1);
            fits
        })
    }

    /// Its elements, row by row.
    fn gathered(&self, storage: &[u8]) -> Vec<u8> {
        let size = self.info.dtype.size();
        let mut bytes = Vec::with_capacity(self.info.byte_length());
        let mut index = vec![0; self.info.shape.len()];
        for _ in 0..self.info.elements() {
            let at: usize = index.iter().zip(&self.stride).map(|(index, stride)| index * stride).sum();
            let start = (self.offset + at) * size;
            bytes.extend_from_slice(&storage[start..start + size]);
            for (index, length) in index.iter_mut().zip(&self.info.shape).rev() {
                *index += 1;
                if *index < *length {
                    break;
                }
                *index = 0;
            }
        }
        bytes
    }
}

impl Reader for TorchFile {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|tensor| &tensor.info)
    }

    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let Some(tensor) = self.tensors.get(name) else { return Err(no_such_tensor(&self.path, name)) };
        if tensor.info.elements() == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        self.content.hand_out(tensor.info.byte_length());
        let storage = tensor.storage.bytes(&self.content).ok_or_else(|| {
            let Refusal { reason, hint } = Refusal::damaged(&crate::error::shown(name));
            Error::BrokenTorchFile { path: self.path.clone(), reason, hint }
        })?;
        if !tensor.is_contiguous() {
            return Ok(Cow::Owned(tensor.gathered(storage)));
        }
        let start = tensor.offset * tensor.info.dtype.size();
        let bytes = &storage[start..start + tensor.info.byte_length()];
        match bytes.as_ptr().addr().is_multiple_of(tensor.info.dtype.size()) {
            true => Ok(Cow::Borrowed(bytes)),
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

/// Opens a file of tensors of either kind, told by its first bytes, or by its name where they say nothing. LoRA files without names of
/// layers get PEFT's.
///
/// # Errors
/// As [`crate::SafetensorsFile::open`] and [`TorchFile::open`].
pub fn open_file(path: impl AsRef<Path>) -> Result<Box<dyn Reader>> {
    let path = path.as_ref();
    const EXTENSIONS: [&str; 4] = ["bin", "ckpt", "pt", "pth"];
    let (file, _) = open_regular(path)?;
    let mut start = Vec::new();
    file.take(LEGACY.len() as u64).read_to_end(&mut start).map_err(|source| Error::io("read", path, source))?;
    let is_named = path.extension().is_some_and(|own| EXTENSIONS.iter().any(|known| own.eq_ignore_ascii_case(known)));
    // A pickle of any protocol from 2 on, so that what is no PyTorch file is refused as what it is; but the length of a safetensors
    // header can begin with the same bytes.
    let is_safetensors = start.get(8) == Some(&b'{');
    let is_pickle = matches!(start[..], [0x80, 2..=5, ..]) || is_named;
    with_names(match start.starts_with(ZIP) || (is_pickle && !is_safetensors) {
        true => Box::new(TorchFile::open(path)?),
        false => Box::new(crate::SafetensorsFile::open(path)?),
    })
}
