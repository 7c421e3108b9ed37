//! The one way to look at named tensors, whatever they lie in.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Dtype;
use crate::error::{Error, Result};
use crate::float8;

/// Type and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// How many elements it has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// How many bytes its elements take.
    pub fn byte_length(&self) -> usize {
        self.elements() * self.dtype.size()
    }
}

/// Named tensors that can be read one at a time.
pub trait Reader {
    /// All names, sorted.
    fn names(&self) -> Vec<&str>;

    /// Type and shape of one tensor.
    fn info(&self, name: &str) -> Option<&TensorInfo>;

    /// The elements of one tensor, little-endian, row by row; aligned for its type.
    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>>;

    /// Free-form strings that travel with the tensors.
    fn metadata(&self) -> &BTreeMap<String, String>;

    /// The file or folder behind this, for messages.
    fn path(&self) -> &Path;

    /// What the file behind this calls the tensor that is `name` here, for messages.
    fn name_in_file<'n>(&'n self, name: &'n str) -> &'n str {
        name
    }
}

macro_rules! reader_behind_a_pointer {
    ($($pointer:ty),*) => {$(
        impl<R: Reader + ?Sized> Reader for $pointer {
            fn names(&self) -> Vec<&str> {
                (**self).names()
            }
            fn info(&self, name: &str) -> Option<&TensorInfo> {
                (**self).info(name)
            }
            fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
                (**self).bytes(name)
            }
            fn metadata(&self) -> &BTreeMap<String, String> {
                (**self).metadata()
            }
            fn path(&self) -> &Path {
                (**self).path()
            }
            fn name_in_file<'n>(&'n self, name: &'n str) -> &'n str {
                (**self).name_in_file(name)
            }
        }
    )*};
}
reader_behind_a_pointer!(&R, Box<R>, Arc<R>);

/// Several readers seen as one: the shards of a model, or the parts of a single-file checkpoint.
pub struct Joined<R> {
    parts: Vec<R>,
    part_of: BTreeMap<String, usize>,
    metadata: BTreeMap<String, String>,
    path: PathBuf,
}

impl<R: Reader> Joined<R> {
    /// Joins readers whose names do not clash. Metadata of earlier parts wins.
    pub fn new(path: &Path, parts: Vec<R>) -> Result<Self> {
        let mut part_of: BTreeMap<String, usize> = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        for (index, part) in parts.iter().enumerate() {
            for name in part.names() {
                if let Some(&earlier) = part_of.get(name) {
                    let place = |part: &R| format!("{name} in {}", part.path().display());
                    return Err(Error::NameClash {
                        path: path.to_path_buf(),
                        name: name.to_string(),
                        first: place(&parts[earlier]),
                        second: place(part),
                    });
                }
                part_of.insert(name.to_string(), index);
            }
            for (key, value) in part.metadata() {
                metadata.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        Ok(Joined { parts, part_of, metadata, path: path.to_path_buf() })
    }
}

impl<R: Reader> Reader for Joined<R> {
    fn names(&self) -> Vec<&str> {
        self.part_of.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.parts[*self.part_of.get(name)?].info(name)
    }

    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let Some(&part) = self.part_of.get(name) else {
            return Err(no_such_tensor(&self.path, name));
        };
        self.parts[part].bytes(name)
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn name_in_file<'n>(&'n self, name: &'n str) -> &'n str {
        self.part_of.get(name).map_or(name, |&part| self.parts[part].name_in_file(name))
    }
}

pub(crate) fn no_such_tensor(path: &Path, name: &str) -> Error {
    Error::NoSuchTensor { path: path.to_path_buf(), tensor: crate::error::shown(name) }
}

/// The elements of a floating point tensor, widened or narrowed to 32 bits.
pub fn read_floats(reader: &dyn Reader, name: &str) -> Result<Vec<f32>> {
    let info = reader.info(name).ok_or_else(|| no_such_tensor(reader.path(), name))?;
    let floats = floats_of(info.dtype, &reader.bytes(name)?);
    floats.ok_or_else(|| wrong_type(reader, name, info.dtype, "a floating point tensor"))
}

/// Elements of a floating point type, little-endian, widened or narrowed to 32 bits; `None` for another type.
pub fn floats_of(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::Bf16 => bytes.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        Dtype::F8E4m3 => bytes.iter().map(|&byte| float8::from_e4m3(byte)).collect(),
        Dtype::F8E5m2 => bytes.iter().map(|&byte| float8::from_e5m2(byte)).collect(),
        _ => return None,
    })
}

/// The elements of an integer tensor, widened to 64 bits.
pub fn read_integers(reader: &dyn Reader, name: &str) -> Result<Vec<i64>> {
    let info = reader.info(name).ok_or_else(|| no_such_tensor(reader.path(), name))?;
    let bytes = reader.bytes(name)?;
    let integers = match info.dtype {
        Dtype::I64 => bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        Dtype::I32 => bytes.as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect(),
        Dtype::U32 => bytes.as_chunks().0.iter().map(|&b| i64::from(u32::from_le_bytes(b))).collect(),
        Dtype::I16 => bytes.as_chunks().0.iter().map(|&b| i64::from(i16::from_le_bytes(b))).collect(),
        Dtype::U16 => bytes.as_chunks().0.iter().map(|&b| i64::from(u16::from_le_bytes(b))).collect(),
        Dtype::I8 => bytes.iter().map(|&b| i64::from(b as i8)).collect(),
        Dtype::U8 | Dtype::Bool => bytes.iter().map(|&b| i64::from(b)).collect(),
        other => return Err(wrong_type(reader, name, other, "an integer tensor")),
    };
    Ok(integers)
}

fn wrong_type(reader: &dyn Reader, name: &str, found: Dtype, wanted: &str) -> Error {
    Error::BrokenTensor {
        path: reader.path().to_path_buf(),
        tensor: crate::error::shown(name),
        reason: format!("has type {found}, wanted {wanted}"),
    }
}
