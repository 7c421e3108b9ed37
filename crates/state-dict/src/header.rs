//! The strict reading of a safetensors header: every number is checked before anything is allocated or mapped by it.
//! The format: 8 bytes little-endian header length, JSON, data (<https://github.com/huggingface/safetensors#format>).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::Dtype;
use crate::error::{Error, Result, shown};
use crate::reader::TensorInfo;

/// The longest header that is read, as in the reference implementation.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The most tensors in one file; a full SDXL checkpoint has 2 600.
pub const MAX_TENSORS: usize = 65_536;
/// The longest tensor name.
pub const MAX_NAME_BYTES: usize = 512;
/// The most dimensions of a tensor.
pub const MAX_RANK: usize = 8;
/// The most keys of the metadata; kohya's scripts write a hundred.
pub const MAX_METADATA_KEYS: usize = 65_536;
/// The most bytes of the metadata, keys and values together; a million captions' tags make a few million.
pub const MAX_METADATA_BYTES: usize = 16_000_000;

/// A checked header.
pub struct Header {
    /// Type, shape and place (relative to `data_start`) of every tensor.
    pub tensors: BTreeMap<String, (TensorInfo, Range<usize>)>,
    /// The free-form strings under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Where the data begins in the file.
    pub data_start: usize,
}

/// The length of the header, checked against the length of the file.
/// `start` holds the first bytes of the file (8 are needed; more help to say what a foreign file is).
pub fn header_length(path: &Path, start: &[u8], file_length: u64) -> Result<usize> {
    let broken = |reason: String| Error::BrokenFile { path: path.to_path_buf(), reason, hint: foreign_format(start) };
    if file_length == 0 {
        return Err(broken("it is empty".to_string()));
    }
    let Some(length) = start.first_chunk::<8>() else {
        return Err(broken(format!("it is only {file_length} bytes long")));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        // Text, for one, read as a number.
        return Err(match length >= file_length && foreign_format(start).is_none() {
            true => broken("it is no safetensors file: its first bytes are not the length of a header".to_string()),
            false => broken(format!("its header would be {length} bytes long, the limit is {MAX_HEADER_BYTES}")),
        });
    }
    if length > file_length - 8 {
        return Err(Error::BrokenFile {
            path: path.to_path_buf(),
            reason: format!("its header should be {length} bytes long but the file ends after {}", file_length - 8),
            hint: foreign_format(start).or_else(incomplete),
        });
    }
    if length < 2 {
        return Err(broken(format!("its header is {length} bytes long")));
    }
    Ok(usize::try_from(length).expect("at most 100 MB"))
}

/// Reads the JSON of the header and checks all of it against the length of the file.
pub fn parse(path: &Path, json: &[u8], file_length: u64) -> Result<Header> {
    let broken = |reason: String, hint: Option<String>| Error::BrokenFile { path: path.to_path_buf(), reason, hint };
    if json.first() != Some(&b'{') {
        return Err(broken("its header does not begin with `{`".to_string(), None));
    }
    let raw: RawHeader = serde_json::from_slice(json)
        .map_err(|error| broken(format!("its header is refused: {}", shown(&error.to_string())), None))?;
    if raw.tensor_count > MAX_TENSORS {
        return Err(broken(format!("it lists {} tensors, the limit is {MAX_TENSORS}", raw.tensor_count), None));
    }

    let data_length = file_length - 8 - json.len() as u64;
    let mut tensors = BTreeMap::new();
    for (name, raw) in raw.tensors {
        let (info, place) = checked_tensor(&name, raw).map_err(|reason| Error::BrokenTensor {
            path: path.to_path_buf(),
            tensor: shown(&name),
            reason,
        })?;
        tensors.insert(name, (info, place));
    }

    // The tensors must fill the data without overlap or hole, so that no byte is read twice and none is hidden.
    let mut order: Vec<(&String, &Range<u64>)> = tensors.iter().map(|(name, entry)| (name, &entry.1)).collect();
    order.sort_by_key(|(_, place)| (place.start, place.end));
    let mut end = 0;
    for (name, place) in order {
        if place.start != end {
            let what = if place.start < end { "overlaps the tensor before it" } else { "leaves a hole before it" };
            return Err(Error::BrokenTensor {
                path: path.to_path_buf(),
                tensor: shown(name),
                reason: format!("{what}: it begins at byte {} of the data, not at {end}", place.start),
            });
        }
        end = place.end;
    }
    if end > data_length {
        return Err(broken(
            format!(
                "it is truncated: its tensors need {} bytes, the file has {file_length}",
                8 + json.len() as u64 + end
            ),
            incomplete(),
        ));
    }
    if end < data_length {
        return Err(broken(format!("{} bytes follow after its last tensor", data_length - end), None));
    }

    let tensors = tensors
        .into_iter()
        .map(|(name, (info, place))| (name, (info, place.start as usize..place.end as usize)))
        .collect();
    Ok(Header { tensors, metadata: raw.metadata, data_start: 8 + json.len() })
}

fn checked_tensor(name: &str, raw: RawTensor) -> std::result::Result<(TensorInfo, Range<u64>), String> {
    check_name(name)?;
    let dtype = Dtype::from_name(&raw.dtype).ok_or_else(|| format!("has the unknown type `{}`", shown(&raw.dtype)))?;
    if raw.shape.rank > MAX_RANK {
        return Err(format!("has {} dimensions, the limit is {MAX_RANK}", raw.shape.rank));
    }
    let shape = raw.shape.lengths;
    // An empty dimension must not hide absurd ones beside it, so zeros count as one here.
    let fits = shape
        .iter()
        .try_fold(dtype.size() as i64, |bytes, &length| bytes.checked_mul(i64::try_from(length.max(1)).ok()?));
    if fits.is_none() {
        return Err(format!("has the impossible shape {shape:?}"));
    }
    let bytes = shape.iter().product::<u64>() * dtype.size() as u64;
    let [start, end] = raw.data_offsets;
    if end < start {
        return Err(format!("ends at byte {end}, before it begins at {start}"));
    }
    if end - start != bytes {
        return Err(format!("of shape {shape:?} and type {dtype} needs {bytes} bytes but has {}", end - start));
    }
    if i64::try_from(end).is_err() {
        return Err(format!("ends at the impossible byte {end}"));
    }
    let shape = shape.iter().map(|&length| length as usize).collect();
    Ok((TensorInfo { dtype, shape }, start..end))
}

/// Names become file names and printed lines elsewhere, so those that could lead out of a folder are refused.
pub fn check_name(name: &str) -> std::result::Result<(), String> {
    if name.is_empty() {
        return Err("has an empty name".to_string());
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("has a name of {} bytes, the limit is {MAX_NAME_BYTES}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err("has control characters in its name".to_string());
    }
    let mut parts = name.split(['/', '\\']);
    if name.starts_with(['/', '\\']) || parts.any(|part| part == "..") {
        return Err("has a name that leads out of its folder".to_string());
    }
    Ok(())
}

/// What to do about a file that ends too early.
pub(crate) fn incomplete() -> Option<String> {
    Some("the download may be incomplete; fetch the file again".to_string())
}

/// Recognises files that are often taken for safetensors.
pub(crate) fn foreign_format(start: &[u8]) -> Option<String> {
    let hint = if start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02") {
        "this is a PyTorch pickle (.ckpt, .pt, .bin), not a safetensors file; convert it first"
    } else if start.starts_with(b"version https://git-lfs") {
        "this is a git-lfs pointer and not the file itself; fetch it with `git lfs pull`"
    } else if start.starts_with(b"<!") || start.starts_with(b"<html") {
        "this is a web page; the download was redirected"
    } else if start.starts_with(b"GGUF") {
        "this is a GGUF file, not a safetensors file"
    } else if start.starts_with(b"\x89PNG") {
        "this is a picture; learned words that lie in pictures are not read, only those in `.pt`, `.bin` and `.safetensors` files"
    } else {
        return None;
    };
    Some(hint.to_string())
}

// What is past a limit is counted while it is read and not kept: a header of 80 MB holds 40 million dimensions, or 6 million keys, whose
// strings and vectors would need ten times as much.
struct RawHeader {
    tensors: BTreeMap<String, RawTensor>,
    /// Also of those past the limit.
    tensor_count: usize,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: RawShape,
    data_offsets: [u64; 2],
}

struct RawShape {
    /// The first of them, up to the limit.
    lengths: Vec<u64>,
    rank: usize,
}

impl<'de> Deserialize<'de> for RawShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = RawShape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of lengths")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<RawShape, A::Error> {
                let mut shape = RawShape { lengths: Vec::new(), rank: 0 };
                while let Some(length) = list.next_element()? {
                    shape.rank += 1;
                    if shape.rank <= MAX_RANK {
                        shape.lengths.push(length);
                    }
                }
                Ok(shape)
            }
        }
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

// serde's maps keep the last of two equal keys; two entries under one name are how a file shows one thing to one
// reader and another thing to the next, so they are refused here.
impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one entry per tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
                let (mut tensors, mut tensor_count) = (BTreeMap::new(), 0);
                let mut metadata = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if metadata.replace(map.next_value::<UniqueStrings>()?.0).is_some() {
                            return Err(A::Error::custom("`__metadata__` appears twice"));
                        }
                        continue;
                    }
                    let tensor = map
                        .next_value::<RawTensor>()
                        .map_err(|error| A::Error::custom(format!("tensor `{}`: {error}", shown(&name))))?;
                    if tensors.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor `{}` appears twice", shown(&name))));
                    }
                    tensor_count += 1;
                    if tensor_count <= MAX_TENSORS {
                        tensors.insert(name, tensor);
                    }
                }
                Ok(RawHeader { tensors, tensor_count, metadata: metadata.unwrap_or_default() })
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct UniqueStrings(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueStrings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct StringsVisitor;
        impl<'de> Visitor<'de> for StringsVisitor {
            type Value = UniqueStrings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<UniqueStrings, A::Error> {
                let mut strings = BTreeMap::new();
                let mut bytes = 0;
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    bytes += key.len() + value.len();
                    if bytes > MAX_METADATA_BYTES {
                        let message = format!("the metadata are longer than the limit of {MAX_METADATA_BYTES} bytes");
                        return Err(A::Error::custom(message));
                    }
                    if strings.len() == MAX_METADATA_KEYS {
                        let message = format!("the metadata have more keys than the limit of {MAX_METADATA_KEYS}");
                        return Err(A::Error::custom(message));
                    }
                    if let Some(_earlier) = strings.insert(key.clone(), value) {
                        return Err(A::Error::custom(format!("metadata key `{}` appears twice", shown(&key))));
                    }
                }
                Ok(UniqueStrings(strings))
            }
        }
        deserializer.deserialize_map(StringsVisitor)
    }
}
