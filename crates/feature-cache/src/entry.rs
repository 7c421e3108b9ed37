//! One entry ↔ the bytes of its safetensors file, with every check on the way back.

use std::collections::BTreeMap;
use std::path::Path;

use sdtrain_state_dict::{Dtype, Error, Reader, SafetensorsFile, TensorEntry, read_floats, write_to};

use crate::key::{EntryName, FORMAT_VERSION};

/// The latents of one image as the encoder gives them: unscaled, a normal distribution in each place.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// `[channels, height, width]`.
    pub mean: Vec<f32>,
    /// Natural logarithm of the variance; same shape.
    pub logvar: Vec<f32>,
}

/// Where an entry's numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The encoder made them.
    Encoded,
    /// They were taken from a file of kohya's scripts: one draw, without the distribution that it was drawn from.
    KohyaNpz,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Origin::Encoded => "encoded",
            Origin::KohyaNpz => "kohya_npz",
        }
    }
}

/// What is kept of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentEntry {
    /// `[channels, height, width]` of all that is in it.
    pub shape: [usize; 3],
    /// Of the image as it is.
    pub plain: Moments,
    /// Of the image mirrored left to right, where somebody asked for that.
    pub mirrored: Option<Moments>,
    /// Where it comes from.
    pub origin: Origin,
}

const FORMAT: &str = "sdtrain latents";
const MIRRORED: &str = "mirrored.";

impl LatentEntry {
    fn tensors(&self) -> Vec<TensorEntry> {
        let mut tensors = Vec::new();
        let both = [("", Some(&self.plain)), (MIRRORED, self.mirrored.as_ref())];
        for (prefix, moments) in both.into_iter().filter_map(|(prefix, moments)| Some((prefix, moments?))) {
            for (name, values) in [("mean", &moments.mean), ("logvar", &moments.logvar)] {
                tensors.push(TensorEntry {
                    name: format!("{prefix}{name}"),
                    dtype: Dtype::F32,
                    shape: self.shape.to_vec(),
                    bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                });
            }
        }
        tensors
    }

    /// The whole file; equal entries of one name give equal bytes.
    pub(crate) fn to_bytes(&self, name: &EntryName) -> sdtrain_state_dict::Result<Vec<u8>> {
        let tensors = self.tensors();
        let metadata = BTreeMap::from(
            [
                ("format", FORMAT.to_owned()),
                ("version", FORMAT_VERSION.to_string()),
                ("name", name.to_string()),
                ("origin", self.origin.name().to_owned()),
                ("checksum", checksum(name, self.origin, &tensors)),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let mut bytes = Vec::new();
        write_to(&mut bytes, tensors.as_slice(), &metadata)?;
        Ok(bytes)
    }

    /// Reads a file back; says what is wrong with one that is not exactly what was written under this name and shape.
    pub(crate) fn from_bytes(
        bytes: Vec<u8>,
        path: &Path,
        name: &EntryName,
        shape: [usize; 3],
    ) -> Result<LatentEntry, String> {
        let file = SafetensorsFile::from_bytes(bytes, path).map_err(reason_of)?;
        let says = |key: &str| file.metadata().get(key).map(String::as_str).unwrap_or_default();
        if says("format") != FORMAT || says("version") != FORMAT_VERSION.to_string() {
            return Err(format!("is no entry of version {FORMAT_VERSION}"));
        }
        if says("name") != name.to_string() {
            return Err("is the entry of another image under this one's name".to_owned());
        }
        let origin = [Origin::Encoded, Origin::KohyaNpz].into_iter().find(|origin| origin.name() == says("origin"));
        let origin = origin.ok_or("does not say where it comes from")?;
        let of = |prefix: &str| -> Result<Moments, String> {
            let values = |field: &str| {
                let tensor = format!("{prefix}{field}");
                let info = file.info(&tensor).ok_or_else(|| format!("has no tensor `{tensor}`"))?;
                if info.dtype != Dtype::F32 || info.shape != shape {
                    return Err(format!("`{tensor}` is {} {:?}, not F32 {shape:?}", info.dtype, info.shape));
                }
                read_floats(&file, &tensor).map_err(reason_of)
            };
            Ok(Moments { mean: values("mean")?, logvar: values("logvar")? })
        };
        let mirrored = file.info(&format!("{MIRRORED}mean")).is_some();
        let entry =
            LatentEntry { shape, plain: of("")?, mirrored: mirrored.then(|| of(MIRRORED)).transpose()?, origin };
        if says("checksum") != checksum(name, origin, &entry.tensors()) {
            return Err("has another checksum than it had when it was written".to_owned());
        }
        Ok(entry)
    }
}

/// What is wrong, without the path: whoever hears of it knows the file.
fn reason_of(error: Error) -> String {
    match error {
        Error::BrokenFile { reason, .. } => reason,
        Error::BrokenTensor { tensor, reason, .. } => format!("`{tensor}` {reason}"),
        other => other.to_string(),
    }
}

fn checksum(name: &EntryName, origin: Origin, tensors: &[TensorEntry]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(name.to_string().as_bytes());
    field(origin.name().as_bytes());
    for tensor in tensors {
        field(tensor.name.as_bytes());
        field(&tensor.bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// Bytes of the numbers and, at most, of the header around them in a file with latents of this shape.
pub fn file_bytes(shape: [usize; 3], mirrored: bool) -> u64 {
    /// More than the header of any entry.
    const HEADER: u64 = 1024;
    let numbers: u64 = shape.iter().map(|&length| length as u64).product();
    HEADER + numbers * 4 * 2 * (1 + u64::from(mirrored))
}
