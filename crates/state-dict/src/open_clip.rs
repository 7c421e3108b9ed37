//! OpenCLIP's text encoder as transformers has it, and back: tensors taken apart and put together.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use crate::Dtype;
use crate::error::{Error, Result, shown};
use crate::maps::open_clip::{JOINED, PROJECTION, Place, canonical_names, layer, place};
use crate::maps::text_places::{Naming, TextPlace};
use crate::reader::{Reader, TensorInfo, no_such_tensor};

const FINAL_NORM: &str = "text_model.final_layer_norm.weight";

/// A text encoder of a single-file checkpoint under transformers' names. Where it goes beyond what is read of it (SD2), its last layer
/// and its projection are left out: diffusers' folders hold no more.
pub struct FromOpenClip<R> {
    inner: R,
    tensors: BTreeMap<String, (Place, TensorInfo)>,
    metadata: BTreeMap<String, String>,
}

impl<R: Reader> FromOpenClip<R> {
    /// Looks through `inner` for the names at `at`.
    pub fn new(inner: R, at: TextPlace) -> Result<FromOpenClip<R>> {
        let inside = || inner.names().into_iter().filter_map(|name| Some((name, name.strip_prefix(at.prefix)?)));
        let last = inside().filter_map(|(_, name)| layer(name)).max().filter(|_| at.naming == Naming::OpenClipBeyond);
        let is_beyond = |name: &str| last.is_some_and(|last| layer(name) == Some(last) || name == PROJECTION.0);
        let mut tensors = BTreeMap::new();
        for (original, name) in inside() {
            let Some(names) = canonical_names(name).filter(|_| !is_beyond(name)) else { continue };
            let info = inner.info(original).expect("a listed tensor has its info");
            if let [name] = &names[..] {
                let (place, mut info) = (place(name), info.clone());
                let place = match place {
                    Some(Place::Transposed(_)) if info.shape.len() == 2 => {
                        info.shape.reverse();
                        Place::Transposed(original.to_string())
                    }
                    _ => Place::Whole(original.to_string()),
                };
                tensors.insert(name.clone(), (place, info));
                continue;
            }
            let rows = info.shape.first().copied().unwrap_or_default();
            if rows == 0 || !rows.is_multiple_of(JOINED.len()) {
                return Err(Error::BrokenTensor {
                    path: inner.path().to_path_buf(),
                    tensor: shown(original),
                    reason: format!("has {rows} rows, which are no queries, keys and values"),
                });
            }
            for (part, name) in names.into_iter().enumerate() {
                let mut shape = info.shape.clone();
                shape[0] = rows / JOINED.len();
                let place = Place::Third(original.to_string(), part);
                tensors.insert(name, (place, TensorInfo { dtype: info.dtype, shape }));
            }
        }
        let metadata = inner.metadata().clone();
        Ok(FromOpenClip { inner, tensors, metadata })
    }
}

impl<R: Reader> Reader for FromOpenClip<R> {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|entry| &entry.1)
    }

    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.tensors.get(name) {
            None => Err(no_such_tensor(self.path(), name)),
            Some((Place::Whole(original), _)) => self.inner.bytes(original),
            Some((Place::Transposed(original), info)) => Ok(transposed(&self.inner.bytes(original)?, info)),
            Some((Place::Third(original, part), info)) => {
                let range = part * info.byte_length()..(part + 1) * info.byte_length();
                Ok(match self.inner.bytes(original)? {
                    Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[range]),
                    Cow::Owned(bytes) => Cow::Owned(bytes[range].to_vec()),
                })
            }
        }
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn name_in_file<'n>(&'n self, name: &'n str) -> &'n str {
        match self.tensors.get(name) {
            None => name,
            Some((Place::Whole(original) | Place::Transposed(original) | Place::Third(original, _), _)) => {
                self.inner.name_in_file(original)
            }
        }
    }
}

/// A text encoder under transformers' names as a single-file checkpoint has it. Where that goes beyond what is read of it (SD2), its last
/// layer is a copy of the one before, beside a projection of ones, as kohya's scripts write them: A1111's interface asks for both.
pub struct ToOpenClip<R> {
    inner: R,
    tensors: BTreeMap<String, (Made, TensorInfo)>,
}

/// How a tensor of a checkpoint comes about.
enum Made {
    /// Of these, one behind the other.
    Of(Vec<String>),
    Transposed(String),
    Ones,
}

impl<R: Reader> ToOpenClip<R> {
    /// Finds the place of every tensor of `inner`.
    ///
    /// # Errors
    /// Where one has none, or queries, keys and values are not all there.
    pub fn new(inner: R, at: TextPlace) -> Result<ToOpenClip<R>> {
        let broken = |name: &str, reason: &str| Error::BrokenTensor {
            path: inner.path().to_path_buf(),
            tensor: shown(name),
            reason: reason.to_string(),
        };
        let prefix = at.prefix;
        let mut parts: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
        let mut tensors = BTreeMap::new();
        for name in inner.names().into_iter().filter(|name| !name.ends_with("position_ids")) {
            let place = place(name).ok_or_else(|| broken(name, "has no place in a single-file checkpoint"))?;
            let (original, part) = match place {
                Place::Whole(original) => (original, 0),
                Place::Third(original, part) => (original, part),
                Place::Transposed(original) => {
                    let mut info = inner.info(name).expect("a listed tensor has its info").clone();
                    info.shape.reverse();
                    tensors.insert(format!("{prefix}{original}"), (Made::Transposed(name.to_string()), info));
                    continue;
                }
            };
            parts.entry(original).or_default().push((part, name.to_string()));
        }
        let is_beyond = at.naming == Naming::OpenClipBeyond;
        let last = parts.keys().filter_map(|name| layer(name)).max().filter(|_| is_beyond);
        if let Some(&TensorInfo { dtype, ref shape }) = inner.info(FINAL_NORM) {
            let width = shape.first().copied().unwrap_or_default();
            let (scale, projection) = (("logit_scale", Vec::new()), (PROJECTION.0, vec![width, width]));
            for (name, shape) in [scale].into_iter().chain(is_beyond.then_some(projection)) {
                tensors.insert(format!("{prefix}{name}"), (Made::Ones, TensorInfo { dtype, shape }));
            }
        }
        for (original, mut sources) in parts {
            sources.sort();
            let joined = original.contains(".attn.in_proj_");
            if sources.len() != if joined { JOINED.len() } else { 1 } {
                return Err(broken(&sources[0].1, "stands without the queries, keys or values beside it"));
            }
            let names: Vec<String> = sources.into_iter().map(|(_, name)| name).collect();
            let mut info = inner.info(&names[0]).expect("a listed tensor has its info").clone();
            if let Some(rows) = info.shape.first_mut() {
                *rows *= names.len();
            }
            if let (Some(last), true) = (last, layer(&original) == last) {
                let copy = original.replacen(&format!(".{last}."), &format!(".{}.", last + 1), 1);
                tensors.insert(format!("{prefix}{copy}"), (Made::Of(names.clone()), info.clone()));
            }
            tensors.insert(format!("{prefix}{original}"), (Made::Of(names), info));
        }
        Ok(ToOpenClip { inner, tensors })
    }
}

impl<R: Reader> Reader for ToOpenClip<R> {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|entry| &entry.1)
    }

    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let names = match self.tensors.get(name) {
            None => return Err(no_such_tensor(self.path(), name)),
            Some((Made::Ones, info)) => return ones(info).ok_or_else(|| no_such_tensor(self.path(), name)),
            Some((Made::Transposed(name), info)) => return Ok(transposed(&self.inner.bytes(name)?, info)),
            Some((Made::Of(names), _)) => names,
        };
        if let [name] = &names[..] {
            return self.inner.bytes(name);
        }
        let parts = names.iter().map(|name| self.inner.bytes(name)).collect::<Result<Vec<_>>>()?;
        Ok(Cow::Owned(parts.concat()))
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.inner.metadata()
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn name_in_file<'n>(&'n self, name: &'n str) -> &'n str {
        match self.tensors.get(name) {
            Some((Made::Of(names), _)) => names.first().map_or(name, |first| self.inner.name_in_file(first)),
            Some((Made::Transposed(source), _)) => self.inner.name_in_file(source),
            Some((Made::Ones, _)) | None => name,
        }
    }
}

/// A matrix with rows and columns exchanged; `info` is of what comes out, `[rows, columns]`.
fn transposed(bytes: &[u8], info: &TensorInfo) -> Cow<'static, [u8]> {
    let [rows, columns] = info.shape[..] else { return Cow::Owned(bytes.to_vec()) };
    let size = info.dtype.size();
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (column * rows + row) * size));
    Cow::Owned(places.flat_map(|at| bytes[at..at + size].iter().copied()).collect())
}

/// Ones of a floating-point type.
fn ones(info: &TensorInfo) -> Option<Cow<'static, [u8]>> {
    let one = match info.dtype {
        Dtype::F64 => 1f64.to_le_bytes().to_vec(),
        Dtype::F32 => 1f32.to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::ONE.to_le_bytes().to_vec(),
        Dtype::Bf16 => half::bf16::ONE.to_le_bytes().to_vec(),
        Dtype::F8E4m3 => vec![0x38],
        Dtype::F8E5m2 => vec![0x3c],
        _ => return None,
    };
    Some(Cow::Owned(one.repeat(info.elements())))
}
