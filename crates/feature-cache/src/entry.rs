//! What every entry has in common: a safetensors file with its name and a checksum in the header, and every check on the way back.

use std::collections::BTreeMap;
use std::path::Path;

use sdtrain_state_dict::{Error, Reader, SafetensorsFile, TensorEntry, write_to};

use crate::key::{EntryName, FORMAT_VERSION};

/// One kind of entries, in a folder of their own.
pub trait Entry: Sized {
    /// What a reader knows beforehand: the shape of what it looks for.
    type Form: Copy;

    /// The folder of these entries.
    const FOLDER: &'static str;

    /// Its own form.
    fn form(&self) -> Self::Form;

    /// The whole file; equal entries of one name give equal bytes.
    fn to_bytes(&self, name: &EntryName) -> sdtrain_state_dict::Result<Vec<u8>>;

    /// Reads a file back; says what is wrong with one that is not exactly what was written under this name and form.
    fn from_bytes(bytes: Vec<u8>, path: &Path, name: &EntryName, form: Self::Form) -> Result<Self, String>;

    /// Bytes that a file of this form has at most, its header included.
    fn most_bytes(form: Self::Form) -> u64;

    /// Whether one that lies under its name holds more than this one, and stays.
    fn is_less_than(&self, _there: &Self) -> bool {
        false
    }
}

/// More than the header of any entry.
pub(crate) const HEADER: u64 = 1024;

/// The file of `tensors`. `format` says what they are, `origin` where they come from, empty where there is but one place.
pub(crate) fn seal(
    format: &str,
    origin: &str,
    name: &EntryName,
    tensors: &[TensorEntry],
) -> sdtrain_state_dict::Result<Vec<u8>> {
    let metadata = [
        ("format", format.to_owned()),
        ("version", FORMAT_VERSION.to_string()),
        ("name", name.to_string()),
        ("origin", origin.to_owned()),
        ("checksum", checksum(name, origin, tensors)),
    ];
    let metadata: BTreeMap<String, String> = metadata
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let mut bytes = Vec::new();
    write_to(&mut bytes, tensors, &metadata)?;
    Ok(bytes)
}

/// A file whose header says what was asked for; its numbers are still to be checked, by [`Sealed::check`].
pub(crate) struct Sealed {
    pub file: SafetensorsFile,
    pub origin: String,
    name: EntryName,
}

impl Sealed {
    pub fn open(format: &str, bytes: Vec<u8>, path: &Path, name: &EntryName) -> Result<Sealed, String> {
        let file = SafetensorsFile::from_bytes(bytes, path).map_err(reason_of)?;
        let says = |key: &str| file.metadata().get(key).map(String::as_str).unwrap_or_default();
        if says("format") != format || says("version") != FORMAT_VERSION.to_string() {
            return Err(format!("is no entry of version {FORMAT_VERSION}"));
        }
        if says("name") != name.to_string() {
            return Err("is another entry under this one's name".to_owned());
        }
        let origin = says("origin").to_owned();
        Ok(Sealed { file, origin, name: *name })
    }

    /// Whether `tensors` are what was written.
    pub fn check(&self, tensors: &[TensorEntry]) -> Result<(), String> {
        let written = self.file.metadata().get("checksum").map(String::as_str);
        match written == Some(checksum(&self.name, &self.origin, tensors).as_str()) {
            true => Ok(()),
            false => Err("has another checksum than it had when it was written".to_owned()),
        }
    }
}

/// What is wrong, without the path: whoever hears of it knows the file.
pub(crate) fn reason_of(error: Error) -> String {
    match error {
        Error::BrokenFile { reason, .. } => reason,
        Error::BrokenTensor { tensor, reason, .. } => format!("`{tensor}` {reason}"),
        other => other.to_string(),
    }
}

fn checksum(name: &EntryName, origin: &str, tensors: &[TensorEntry]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(name.to_string().as_bytes());
    field(origin.as_bytes());
    for tensor in tensors {
        field(tensor.name.as_bytes());
        field(&tensor.bytes);
    }
    hasher.finalize().to_hex().to_string()
}
