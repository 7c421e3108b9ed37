//! The base models inside the program.

use crate::error::{Error, Result};
use sdtrain_state_dict::SafetensorsFile;

/// Name and single-file checkpoint of each; how `poster-tiny` was made is written in `docs/poster-tiny.md`.
#[cfg(feature = "builtin-base")]
const MODELS: &[(&str, &[u8])] = &[("poster-tiny", include_bytes!("../builtin/poster-tiny.safetensors"))];
#[cfg(not(feature = "builtin-base"))]
const MODELS: &[(&str, &[u8])] = &[];

/// The file of the built-in model `name`.
pub fn bytes(name: &str) -> Option<&'static [u8]> {
    MODELS.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}

/// The built-in model `name`.
pub fn open(name: &str) -> Result<SafetensorsFile> {
    let names: Vec<String> = MODELS.iter().map(|(name, _)| format!("`builtin:{name}`")).collect();
    let (name, bytes) = MODELS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
        Error::Family(match names.is_empty() {
            true => format!("`builtin:{name}`: this program was built without its base model (feature `builtin-base`)"),
            false => format!("there is no built-in model `builtin:{name}`; known: {}", names.join(", ")),
        })
    })?;
    Ok(SafetensorsFile::from_bytes(*bytes, format!("builtin:{name}"))?)
}
