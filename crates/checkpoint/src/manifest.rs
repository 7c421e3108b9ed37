//! `MANIFEST.json`: what a checkpoint is, what it holds, and how to tell that all of it is there.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::seeded_bugs::{Bug, seeded};
use crate::{Error, Result};

/// Name of the manifest in a checkpoint's folder.
pub const MANIFEST_NAME: &str = "MANIFEST.json";

/// Version of the layout written here; a higher one is refused.
pub const FORMAT_VERSION: u32 = 1;

/// Far more than any manifest needs; a longer file is not read.
pub(crate) const LARGEST_MANIFEST: u64 = 16 << 20;

/// What the writer of a checkpoint says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ManifestInfo {
    /// Optimizer steps done; the newest checkpoint is the one with the most.
    pub step: u64,
    /// Epoch of the next step, from 0.
    pub epoch: u64,
    /// The run that wrote it.
    pub run_id: String,
    /// Digest of the resolved configuration.
    pub config_digest: String,
    /// Digest of the data set.
    pub data_digest: String,
    /// Version of the program.
    pub build: String,
    /// Threads of the numerical library: another number rounds differently.
    pub threads: usize,
    /// Instruction set of the numerical library, for the same reason.
    pub instruction_set: String,
    /// Anything else worth knowing.
    pub details: BTreeMap<String, String>,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name in the folder.
    pub name: String,
    /// Length in bytes.
    pub length: u64,
    /// BLAKE3 hash of the content, hexadecimal.
    pub blake3: String,
}

/// Everything that `MANIFEST.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of the folder.
    pub format_version: u32,
    /// What the writer said.
    pub info: ManifestInfo,
    /// Every file but the manifest, sorted by name.
    pub files: Vec<FileEntry>,
    /// BLAKE3 hash of this manifest with an empty `digest`: tells a damaged manifest from a true one.
    pub digest: String,
}

impl Manifest {
    pub(crate) fn new(info: ManifestInfo, mut files: Vec<FileEntry>) -> Self {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut manifest = Manifest { format_version: FORMAT_VERSION, info, files, digest: String::new() };
        manifest.digest = manifest.own_digest();
        manifest
    }

    fn own_digest(&self) -> String {
        let undigested = Manifest { digest: String::new(), ..self.clone() };
        blake3::hash(&undigested.to_json()).to_hex().to_string()
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("strings, numbers and lists of them are always JSON");
        json.push(b'\n');
        json
    }

    /// Reads a manifest back, accepting only one that this crate wrote and nobody changed.
    pub(crate) fn from_json(json: &[u8], folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let broken = |e: serde_json::Error| Error::invalid(folder, format!("its {MANIFEST_NAME} cannot be read: {e}"));
        let Version { format_version } = serde_json::from_slice(json).map_err(broken)?;
        if format_version > FORMAT_VERSION {
            let reason =
                format!("it has layout {format_version} of a newer version; this one reads up to {FORMAT_VERSION}");
            return Err(Error::invalid(folder, reason));
        }
        let manifest: Manifest = serde_json::from_slice(json).map_err(broken)?;
        let is_as_written = manifest.digest == manifest.own_digest() && manifest.to_json() == json;
        if !is_as_written && !seeded(Bug::AnyManifest) {
            return Err(Error::invalid(folder, format!("its {MANIFEST_NAME} was changed after it was written")));
        }
        if let Some(file) = manifest.files.iter().find(|file| !is_plain_name(&file.name)) {
            return Err(Error::invalid(
                folder,
                format!("it lists a file with the name `{}`", file.name.escape_debug()),
            ));
        }
        Ok(manifest)
    }
}

/// Whether this is the name of a file beside the manifest and nothing else: no path, not hidden, not the manifest.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && name != MANIFEST_NAME
        && !name.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let entry = |name: &str| FileEntry { name: name.to_owned(), length: 3, blake3: "00".to_owned() };
        let info = ManifestInfo { step: 250, run_id: "r".to_owned(), threads: 2, ..ManifestInfo::default() };
        Manifest::new(info, vec![entry("b"), entry("a")])
    }

    fn read(json: &[u8]) -> Result<Manifest> {
        Manifest::from_json(json, Path::new("step-000250"))
    }

    #[test]
    fn comes_back_as_it_was_written() {
        let manifest = manifest();
        assert_eq!(read(&manifest.to_json()).unwrap(), manifest);
        assert_eq!(manifest.files[0].name, "a");
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let json = manifest().to_json();
        for byte in 0..json.len() {
            for bit in 0..8 {
                let mut damaged = json.clone();
                damaged[byte] ^= 1 << bit;
                assert!(read(&damaged).is_err(), "bit {bit} of byte {byte}");
            }
        }
        for length in 0..json.len() {
            assert!(read(&json[..length]).is_err(), "cut to {length} bytes");
        }
    }

    #[test]
    fn a_newer_layout_is_called_that() {
        let newer = br#"{"format_version": 9, "something": "else"}"#;
        assert!(read(newer).unwrap_err().to_string().contains("layout 9 of a newer version"));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in ["../a", "a/b", "/etc/passwd", "", ".", "..", ".hidden", "a\0b", "C:a", "a\\b", MANIFEST_NAME] {
            let mut bad = manifest();
            bad.files[0].name = name.to_owned();
            bad.digest = bad.own_digest();
            assert!(read(&bad.to_json()).is_err(), "{name:?}");
        }
        assert!(is_plain_name("optimizer.safetensors"));
    }
}
