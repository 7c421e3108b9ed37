//! The strings that travel in a model file's header: kohya's hashes and the ModelSpec keys.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::family::{Family, ORIGINAL_NAMES, PREDICTION_TYPE};
use crate::write::{TensorSource, write_to};

/// kohya's legacy hashes look at 64 KiB from here on.
const WINDOW_START: u64 = 0x10_0000;
const WINDOW_LENGTH: u64 = 0x1_0000;

/// `sshs_model_hash` and `sshs_legacy_hash` of a file that is about to be saved. Only the `ss_` keys of `metadata`
/// count, so that titles and comments can be edited later without changing the hashes.
/// (kohya-ss/sd-scripts, library/train_util.py, `precalculate_safetensors_hashes`)
pub fn sshs_hashes<S: TensorSource + ?Sized>(
    source: &S,
    metadata: &BTreeMap<String, String>,
) -> Result<(String, String)> {
    let metadata = metadata.iter().filter(|(key, _)| key.starts_with("ss_"));
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut hashes = FileHashes::default();
    write_to(&mut hashes, source, &metadata)?;
    let legacy = hex(&hashes.window.finalize());
    Ok((hex(&hashes.data.finalize()), legacy[..8].to_string()))
}

/// `sshs_model_hash` of a file on disk: SHA-256 of everything after the header.
pub fn sshs_model_hash(path: &Path) -> Result<String> {
    hash_file(path).map(|hashes| hex(&hashes.data.finalize()))
}

/// The short hash of a checkpoint (`ss_sd_model_hash`, `ss_vae_hash`): 8 digits over 64 KiB in its second megabyte.
pub fn legacy_model_hash(path: &Path) -> Result<String> {
    let window = || -> io::Result<String> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(WINDOW_START))?;
        let mut window = Vec::new();
        file.take(WINDOW_LENGTH).read_to_end(&mut window)?;
        Ok(hex(&Sha256::digest(&window)))
    };
    let digits = window().map_err(|source| Error::io("read", path, source))?;
    Ok(digits[..8].to_string())
}

/// The full hash of a checkpoint (`ss_new_sd_model_hash`, `ss_new_vae_hash`): SHA-256 of the file.
pub fn full_model_hash(path: &Path) -> Result<String> {
    hash_file(path).map(|hashes| hex(&hashes.all.finalize()))
}

fn hash_file(path: &Path) -> Result<FileHashes> {
    let mut hashes = FileHashes::default();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hashes))
        .map_err(|source| Error::io("read", path, source))?;
    Ok(hashes)
}

/// Takes the bytes of a safetensors file in order and hashes what each kind of hash covers.
#[derive(Default)]
struct FileHashes {
    position: u64,
    length_field: Vec<u8>,
    all: Sha256,
    data: Sha256,
    window: Sha256,
}

impl FileHashes {
    fn data_start(&self) -> Option<u64> {
        let length = self.length_field.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*length).saturating_add(8))
    }
}

impl Write for FileHashes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let missing = 8 - self.length_field.len();
        self.length_field.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        self.all.update(bytes);
        if let Some(start) = self.data_start() {
            self.data.update(overlap(bytes, self.position, start, u64::MAX));
        }
        self.window.update(overlap(bytes, self.position, WINDOW_START, WINDOW_START + WINDOW_LENGTH));
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The part of `bytes`, which lie at `position`, that is between `start` and `end`.
fn overlap(bytes: &[u8], position: u64, start: u64, end: u64) -> &[u8] {
    let length = bytes.len() as u64;
    let from = start.saturating_sub(position).min(length) as usize;
    let to = end.saturating_sub(position).min(length) as usize;
    &bytes[from..to.max(from)]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ModelSpec 1.0.1 description of a file (<https://github.com/Stability-AI/ModelSpec>), as kohya's scripts fill it in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelSpec {
    /// Such as `stable-diffusion-v1/lora`; see [`architecture`].
    pub architecture: String,
    /// Whose code the names follow: `diffusers`, or the repository's address for original names.
    pub implementation: String,
    /// What it is called.
    pub title: String,
    /// The training resolution, width and height.
    pub resolution: Option<(u32, u32)>,
    /// When it was made, ISO 8601.
    pub date: Option<String>,
    /// `epsilon` or `v`.
    pub prediction_type: Option<String>,
    /// The trained timesteps, first and last.
    pub timestep_range: Option<(u32, u32)>,
    /// The text encoder layer that is used, counted from the end (clip skip).
    pub encoder_layer: Option<u32>,
    /// Who made it.
    pub author: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// Under which terms it may be used.
    pub license: Option<String>,
    /// Search words, comma separated.
    pub tags: Option<String>,
    /// How to use it.
    pub usage_hint: Option<String>,
    /// The words that call it up.
    pub trigger_phrase: Option<String>,
    /// The models it was merged from, comma separated.
    pub merged_from: Option<String>,
}

/// The ModelSpec architecture of a family, with `adapter` such as `lora` or `textual-inversion` where it is one.
pub fn architecture(family: Family, v_prediction: bool, adapter: Option<&str>) -> String {
    let base = base_architecture(family, Some(v_prediction));
    match adapter {
        Some(adapter) => format!("{base}/{adapter}"),
        None => base.to_string(),
    }
}

/// Whose code the names of a file follow, as kohya's scripts say it: whole models and words are said to follow the original's, and
/// adapters what is usual for the family.
pub fn implementation(family: Family, adapter: Option<&str>) -> &'static str {
    match adapter {
        None | Some("textual-inversion") => ORIGINAL_NAMES,
        Some(_) => family.implementation(),
    }
}

/// That of a whole model. Only SD2's names say what it predicts; where nobody knows it, neither is claimed.
fn base_architecture(family: Family, v_prediction: Option<bool>) -> &'static str {
    match (family, v_prediction) {
        (Family::Sd1, _) => "stable-diffusion-v1",
        (Family::Sd2, None) => "stable-diffusion-v2",
        (Family::Sd2, Some(false)) => "stable-diffusion-v2-512",
        (Family::Sd2, Some(true)) => "stable-diffusion-v2-768-v",
        (Family::Sdxl, _) => "stable-diffusion-xl-v1-base",
        (Family::SdxlRefiner, _) => "stable-diffusion-xl-v1-refiner",
    }
}

/// Whether the base of an adapter predicts the velocity, where the adapter's metadata say it.
fn base_predicts_velocity(metadata: &BTreeMap<String, String>) -> Option<bool> {
    match metadata.get(PREDICTION_TYPE) {
        Some(kind) => Some(kind.starts_with('v')),
        None => match metadata.get("ss_base_model_version")?.as_str() {
            "sd_v1" | "sd_v2" => Some(false),
            "sd_v1_v" | "sd_v2_v" => Some(true),
            // SDXL's is the same for both.
            _ => None,
        },
    }
}

fn prediction_type(v_prediction: bool) -> String {
    let said = if v_prediction { "v" } else { "epsilon" };
    said.to_string()
}

/// What a file at `output` is called: its name without the ending.
pub fn title(output: &Path) -> String {
    output.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

impl ModelSpec {
    /// Of a whole model in a single file at `output`, for square pictures of `side` pixels where that is known.
    pub fn of_single_file(family: Family, v_prediction: bool, side: Option<u32>, output: &Path) -> ModelSpec {
        ModelSpec {
            architecture: architecture(family, v_prediction, None),
            implementation: implementation(family, None).to_string(),
            title: title(output),
            resolution: side.map(|side| (side, side)),
            prediction_type: Some(prediction_type(v_prediction)),
            ..ModelSpec::default()
        }
    }

    /// Of an adapter at `output`, `adapter` such as `lora` or `textual-inversion`; what its base predicts is told as far as the adapter's
    /// `metadata` tell it.
    pub fn of_adapter(family: Family, adapter: &str, metadata: &BTreeMap<String, String>, output: &Path) -> ModelSpec {
        let v_prediction = base_predicts_velocity(metadata);
        ModelSpec {
            architecture: format!("{}/{adapter}", base_architecture(family, v_prediction)),
            implementation: implementation(family, Some(adapter)).to_string(),
            title: title(output),
            prediction_type: v_prediction.map(prediction_type),
            ..ModelSpec::default()
        }
    }

    /// The `modelspec.` keys; those that are not set are left out.
    pub fn keys(&self) -> BTreeMap<String, String> {
        let pair = |(first, second): (u32, u32), between: &str| format!("{first}{between}{second}");
        let rows = [
            ("sai_model_spec", Some("1.0.1".to_string())),
            ("architecture", Some(self.architecture.clone())),
            ("implementation", Some(self.implementation.clone())),
            ("title", Some(self.title.clone())),
            ("resolution", self.resolution.map(|size| pair(size, "x"))),
            ("date", self.date.clone()),
            ("prediction_type", self.prediction_type.clone()),
            ("timestep_range", self.timestep_range.map(|range| pair(range, ","))),
            ("encoder_layer", self.encoder_layer.map(|layer| layer.to_string())),
            ("author", self.author.clone()),
            ("description", self.description.clone()),
            ("license", self.license.clone()),
            ("tags", self.tags.clone()),
            ("usage_hint", self.usage_hint.clone()),
            ("trigger_phrase", self.trigger_phrase.clone()),
            ("merged_from", self.merged_from.clone()),
        ];
        rows.into_iter().filter_map(|(key, value)| Some((format!("modelspec.{key}"), value?))).collect()
    }
}
