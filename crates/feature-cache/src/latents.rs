//! The latents of one image as an entry.

use std::path::Path;

use sdtrain_state_dict::{Dtype, Reader, TensorEntry, read_floats};

use crate::entry::{Entry, HEADER, Sealed, reason_of, seal};
use crate::key::EntryName;

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
}

impl Entry for LatentEntry {
    type Form = [usize; 3];

    const FOLDER: &'static str = "latents";

    fn form(&self) -> [usize; 3] {
        self.shape
    }

    fn to_bytes(&self, name: &EntryName) -> sdtrain_state_dict::Result<Vec<u8>> {
        seal(FORMAT, self.origin.name(), name, &self.tensors())
    }

    fn from_bytes(bytes: Vec<u8>, path: &Path, name: &EntryName, shape: [usize; 3]) -> Result<LatentEntry, String> {
        let sealed = Sealed::open(FORMAT, bytes, path, name)?;
        let file = &sealed.file;
        let origin = [Origin::Encoded, Origin::KohyaNpz].into_iter().find(|origin| origin.name() == sealed.origin);
        let origin = origin.ok_or("does not say where it comes from")?;
        let of = |prefix: &str| -> Result<Moments, String> {
            let values = |field: &str| {
                let tensor = format!("{prefix}{field}");
                let info = file.info(&tensor).ok_or_else(|| format!("has no tensor `{tensor}`"))?;
                if info.dtype != Dtype::F32 || info.shape != shape {
                    return Err(format!("`{tensor}` is {} {:?}, not F32 {shape:?}", info.dtype, info.shape));
                }
                read_floats(file, &tensor).map_err(reason_of)
            };
            Ok(Moments { mean: values("mean")?, logvar: values("logvar")? })
        };
        let mirrored = file.info(&format!("{MIRRORED}mean")).is_some();
        let entry =
            LatentEntry { shape, plain: of("")?, mirrored: mirrored.then(|| of(MIRRORED)).transpose()?, origin };
        sealed.check(&entry.tensors())?;
        Ok(entry)
    }

    fn most_bytes(shape: [usize; 3]) -> u64 {
        file_bytes(shape, true)
    }

    fn is_less_than(&self, there: &LatentEntry) -> bool {
        self.mirrored.is_none() && there.mirrored.is_some() && there.origin == self.origin
    }
}

/// Bytes of the numbers and, at most, of the header around them in a file with latents of this shape.
pub fn file_bytes(shape: [usize; 3], mirrored: bool) -> u64 {
    let numbers: u64 = shape.iter().map(|&length| length as u64).product();
    HEADER + numbers * 4 * 2 * (1 + u64::from(mirrored))
}
