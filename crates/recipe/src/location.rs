//! Where a model is: built in, in a file or folder, or in the Hugging Face cache.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::HubName;

/// The models that come with the program.
pub const BUILTIN_MODELS: [&str; 1] = ["poster-tiny"];

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelLocation {
    /// In the program itself, by this name.
    Builtin(String),
    /// A file or a folder.
    Path(PathBuf),
}

impl ModelLocation {
    /// Whether this way to name a model is a path of a file or folder.
    pub fn is_file_path(text: &str) -> bool {
        !text.is_empty() && !text.starts_with("builtin:") && !HubName::is_one(text)
    }

    /// Finds `builtin:NAME`, a [`HubName`] (in the cache only) or a path.
    /// The error is a message and a hint.
    pub fn find(text: &str) -> Result<ModelLocation, (String, Option<String>)> {
        if let Some(name) = text.strip_prefix("builtin:") {
            if BUILTIN_MODELS.contains(&name) {
                return Ok(ModelLocation::Builtin(name.to_owned()));
            }
            let known = BUILTIN_MODELS.map(|name| format!("`builtin:{name}`")).join(", ");
            return Err((format!("there is no built-in model `{name}`"), Some(format!("there is {known}"))));
        }
        if HubName::is_one(text) {
            return HubName::parse(text)?.find().map(ModelLocation::Path);
        }
        let path = Path::new(text);
        match path.exists() {
            true => Ok(ModelLocation::Path(path.to_owned())),
            false => Err((format!("`{text}` does not exist"), nearest_folder_hint(path))),
        }
    }
}

impl fmt::Display for ModelLocation {
    /// As `find` takes it and as models are loaded: `builtin:NAME`, or the path.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelLocation::Builtin(name) => write!(formatter, "builtin:{name}"),
            ModelLocation::Path(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// Names the deepest folder on the way that does exist.
pub(crate) fn nearest_folder_hint(path: &Path) -> Option<String> {
    let existing = path.ancestors().skip(1).find(|folder| folder.is_dir())?;
    let missing = path.strip_prefix(existing).ok()?.components().next()?;
    let missing = missing.as_os_str().to_string_lossy();
    Some(format!("`{}` has no `{missing}`", existing.display()))
}

/// What a model or a file is called in what leaves the machine: without the folders that it lies in. Names of built-in models and of the hub
/// stay, and what lies in the hub's cache is called as there.
pub fn published_name(text: &str) -> String {
    if !ModelLocation::is_file_path(text) {
        return text.to_owned();
    }
    let parts: Vec<_> = Path::new(text).components().map(|part| part.as_os_str().to_string_lossy()).collect();
    // `models--ORG--REPO/snapshots/COMMIT`, and what is in it.
    if let Some(at) = parts.iter().position(|part| part == "snapshots").filter(|&at| at > 0 && parts.len() > at + 1)
        && let Some(repository) = parts[at - 1].strip_prefix("models--")
    {
        return [
            &[repository.replace("--", "/")],
            &parts[at + 2..].iter().map(ToString::to_string).collect::<Vec<_>>()[..],
        ]
        .concat()
        .join("/");
    }
    parts.last().map_or_else(|| text.to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::{ModelLocation, published_name};

    #[test]
    fn a_builtin_model_is_known_by_name() {
        assert_eq!(ModelLocation::find("builtin:poster-tiny"), Ok(ModelLocation::Builtin("poster-tiny".to_owned())));
        let (message, hint) = ModelLocation::find("builtin:poster").unwrap_err();
        assert_eq!(message, "there is no built-in model `poster`");
        assert_eq!(hint.as_deref(), Some("there is `builtin:poster-tiny`"));
    }

    #[test]
    fn folders_of_a_disk_are_not_told() {
        for (text, name) in [
            ("/home/me/models/mine.safetensors", "mine.safetensors"),
            ("../models/sd15/", "sd15"),
            ("builtin:poster-tiny", "builtin:poster-tiny"),
            ("hf:org/model", "hf:org/model"),
            ("/home/me/.cache/huggingface/hub/models--org--model/snapshots/0123", "org/model"),
            ("hub/models--org--model/snapshots/0123/unet/model.safetensors", "org/model/unet/model.safetensors"),
            ("snapshots/old", "old"),
        ] {
            assert_eq!(published_name(text), name);
        }
    }
}
