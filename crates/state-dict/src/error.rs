//! What can be wrong with a model file, told with the file, the tensor and the way out.

use std::io;
use std::path::{Path, PathBuf};

use crate::load_report::LoadReport;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong when model files are read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, such as `open`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file is not a well-formed safetensors file.
    #[error("`{}` is not a usable safetensors file: {reason}", path.display())]
    BrokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// How to get a good one, if that is known.
        hint: Option<String>,
    },
    /// The file is not a PyTorch file of tensors.
    #[error("`{}` is not a usable PyTorch file: {reason}", path.display())]
    BrokenTorchFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// How to get a good one, if that is known.
        hint: Option<String>,
    },
    /// One tensor's entry in the header is not acceptable.
    #[error("`{}`: tensor `{tensor}` {reason}", path.display())]
    BrokenTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name, escaped and shortened for display.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor holds numbers that are none, or infinite.
    #[error("`{}`: tensor `{tensor}` holds {count} of {elements} numbers that are not finite (NaN or infinity)", path.display())]
    NotFinite {
        /// The file or folder.
        path: PathBuf,
        /// The tensor's name, escaped and shortened for display.
        tensor: String,
        /// How many numbers are not finite.
        count: usize,
        /// How many it has.
        elements: usize,
    },
    /// A tensor was asked for that is not there.
    #[error("`{}` has no tensor `{tensor}`", path.display())]
    NoSuchTensor {
        /// The file.
        path: PathBuf,
        /// The name that was asked for.
        tensor: String,
    },
    /// A folder holds no weights under any of the names that are looked for.
    #[error("no weights in `{}`: looked for {}", folder.display(), wanted.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The file names that would have been accepted.
        wanted: Vec<String>,
        /// What lies there instead, if that helps.
        hint: Option<String>,
    },
    /// The shard index of a folder contradicts its shards.
    #[error("`{}`: {reason}", path.display())]
    BrokenIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two tensors end up under one name.
    #[error("`{}`: `{first}` and `{second}` are both `{name}`", path.display())]
    NameClash {
        /// The file or folder.
        path: PathBuf,
        /// The shared name.
        name: String,
        /// One of the two.
        first: String,
        /// The other.
        second: String,
    },
    /// The tensors are not those of the model.
    #[error("{0}")]
    Mismatch(Box<LoadReport>),
    /// The file is something else than what was asked for.
    #[error("`{}` {reason}", path.display())]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it is, and what was wanted.
        reason: String,
    },
    /// A single file without a tokenizer, whose text encoder does not read CLIP's words.
    #[error(
        "`{}` carries no tokenizer, and its text encoder is {text_encoder} with {words} words, of which the built-in tokenizer of CLIP \
         knows nothing",
        path.display()
    )]
    NoTokenizer {
        /// The file.
        path: PathBuf,
        /// What its text encoder is.
        text_encoder: &'static str,
        /// How many words that has vectors for.
        words: usize,
    },
    /// A file could not be written; nothing of it was left behind.
    #[error("cannot save `{}`: {source}", path.display())]
    Save {
        /// The file that was to be written.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The tensors handed over for saving contradict themselves.
    #[error("cannot save tensor `{tensor}`: {reason}")]
    BadEntry {
        /// The tensor's name.
        tensor: String,
        /// The contradiction.
        reason: String,
    },
}

impl Error {
    /// The way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::BrokenFile { hint, .. } | Error::BrokenTorchFile { hint, .. } | Error::NoWeights { hint, .. } => {
                hint.clone()
            }
            Error::Save { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space or choose another output folder; nothing half-written was left".to_string())
            }
            Error::Save { source, .. } if source.kind() == io::ErrorKind::FileTooLarge => Some(
                "lift the limit on the size of files (`ulimit -f unlimited`) or choose another disk; nothing half-written was left"
                    .to_string(),
            ),
            Error::Mismatch(report) => report.hint(),
            Error::NoTokenizer { words, .. } => Some(format!(
                "name the folder of its own tokenizer, of {words} tokens: a run takes it as `model.tokenizer`, and `sdtrain convert \
                 --to diffusers --tokenizer FOLDER` makes a diffusers folder, which has both"
            )),
            Error::NotFinite { .. } => Some(
                "every picture and every loss would be none: the file is damaged, or was saved by a run that had diverged; fetch it \
                 again, or take an earlier one"
                    .to_string(),
            ),
            _ => None,
        }
    }

    /// Whether the storage is at fault and not a model file (another exit code).
    pub fn is_storage(&self) -> bool {
        matches!(self, Error::Save { .. })
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { action, path: path.to_path_buf(), source }
    }
}

/// A foreign string made fit for a terminal: control characters escaped, at most 120 characters.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == 120 {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}
