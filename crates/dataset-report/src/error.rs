//! Why a data set could not be looked at or cleaned.

use std::io;
use std::path::{Path, PathBuf};

use sdtrain_data_loader::DataError;

/// Why a data set could not be looked at or cleaned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data set itself.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A folder or file could not be written, moved or read.
    #[error("`{}`: {reason}", .path.display())]
    Storage {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file that is no manifest of a cleaning, or not a whole one.
    #[error("`{}` is not a manifest of `sdtrain dataset clean`: {reason}", .path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder that images cannot be moved to.
    #[error("images cannot be moved to `{}`: {reason}", .path.display())]
    Target {
        /// The folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// No image would stay.
    #[error("all {0} images would be taken out, so nothing was moved")]
    NothingLeft(usize),
}

impl Error {
    pub(crate) fn storage(path: &Path, error: &io::Error) -> Error {
        Error::Storage { path: path.to_owned(), reason: error.to_string() }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Data(error) => error.hint(),
            Error::Storage { .. } => None,
            Error::Manifest { .. } => Some("`clean --apply` names the manifest that it wrote".to_owned()),
            Error::Target { .. } => {
                Some("`--to FOLDER` names another one, on the same disk and outside the data".to_owned())
            }
            Error::NothingLeft(_) => {
                Some("loosen the limits, as with `--min-side 0`; `sdtrain dataset inspect` shows the sizes".to_owned())
            }
        }
    }
}
