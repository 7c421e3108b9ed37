//! What can go wrong between a state in memory and a folder that can be trusted.

use crate::publish::LATEST_NAME;
use std::io;
use std::path::{Path, PathBuf};

/// A checkpoint that could not be written, read or owned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused something.
    #[error("cannot {what} `{}`: {source}", .path.display())]
    Storage {
        /// What was tried, as "write" or "rename".
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The content could not be produced.
    #[error("cannot write the content of checkpoint `{name}`: {source}")]
    Content {
        /// The checkpoint's name.
        name: String,
        /// What its producer said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A name that is no plain file name.
    #[error("`{name}` cannot be the name of {of}")]
    Name {
        /// The name.
        name: String,
        /// "a checkpoint" or "a file in a checkpoint".
        of: &'static str,
    },
    /// A folder that is no complete checkpoint.
    #[error("`{}` is not a complete checkpoint: {reason}", .folder.display())]
    Invalid {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There are checkpoints, and none of them is whole.
    #[error("none of the {count} checkpoints in `{}` is whole; the newest: {reason}", .folder.display())]
    NoneWhole {
        /// The folder of the checkpoints.
        folder: PathBuf,
        /// How many there are.
        count: usize,
        /// What is wrong with the newest.
        reason: String,
    },
    /// There is no checkpoint any more.
    #[error("`{LATEST_NAME}` in `{}` names `{name}`, and there is no checkpoint", .folder.display())]
    Gone {
        /// The folder of the checkpoints.
        folder: PathBuf,
        /// The newest that was there.
        name: String,
    },
    /// Another process works in this folder.
    #[error("`{}` is in use by another run{owner}", .folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// ` (process 123)`, or nothing where it is not known.
        owner: String,
    },
}

impl Error {
    pub(crate) fn storage(what: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Storage { what, path: path.to_owned(), source }
    }

    pub(crate) fn invalid(folder: &Path, reason: impl Into<String>) -> Self {
        Error::Invalid { folder: folder.to_owned(), reason: reason.into() }
    }

    /// What the file system said, where it is the cause, even if it said so to the producer of the content.
    pub fn storage_error(&self) -> Option<&io::Error> {
        storage_error(self)
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match self {
            Error::Storage { .. } | Error::Content { .. } => match self.storage_error()?.kind() {
                StorageFull | QuotaExceeded => Some(
                    "free some space and run the same command again: it continues from the newest complete checkpoint"
                        .to_owned(),
                ),
                PermissionDenied | ReadOnlyFilesystem => {
                    Some("choose a folder that can be written with `--output`".to_owned())
                }
                _ => None,
            },
            Error::Invalid { .. } => {
                Some("`--resume auto` takes the newest complete checkpoint of the run's folder".to_owned())
            }
            Error::NoneWhole { .. } => Some(
                "put a whole copy in its place, or begin anew with `--resume never`, which moves the folder aside"
                    .to_owned(),
            ),
            Error::Gone { .. } => {
                Some("put it back, or begin anew with `--resume never`, which moves the folder aside".to_owned())
            }
            Error::Locked { .. } => Some("wait for it to end, or choose another folder with `--output`".to_owned()),
            Error::Name { .. } => None,
        }
    }
}

/// What the file system said, where it is among the causes of `error`.
pub fn storage_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e io::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// `error` and what caused it, outermost first.
pub fn causes<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Says what was tried on which path when a file call fails.
pub(crate) trait Context<T> {
    fn context(self, what: &'static str, path: &Path) -> crate::Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: &'static str, path: &Path) -> crate::Result<T> {
        self.map_err(|source| Error::storage(what, path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot save `a.safetensors`")]
    struct Producer(#[source] io::Error);

    #[test]
    fn a_full_disk_is_recognised_behind_the_producer() {
        let full = Producer(io::ErrorKind::StorageFull.into());
        let error = Error::Content { name: "step-000250".to_owned(), source: full.into() };
        assert!(error.hint().unwrap().starts_with("free some space"));
        assert_eq!(error.storage_error().unwrap().kind(), io::ErrorKind::StorageFull);
        let other = Error::Content { name: "step-000250".to_owned(), source: "a tensor is NaN".into() };
        assert!(other.hint().is_none() && other.storage_error().is_none());
    }
}
