//! What can go wrong with a cache: the disk alone. What lies in it wrongly is found and made again.

use std::io;
use std::path::{Path, PathBuf};

/// The file system refused something.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} `{}`: {source}", .path.display())]
pub struct Error {
    /// What was tried, as "write" or "rename".
    pub what: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl Error {
    pub(crate) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error { what, path: path.to_owned(), source }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match self.source.kind() {
            StorageFull | QuotaExceeded => {
                Some("free some space and run the same command again: what is in the cache stays there".to_owned())
            }
            PermissionDenied | ReadOnlyFilesystem => {
                Some("set `data.cache_dir` to a folder that can be written".to_owned())
            }
            _ => None,
        }
    }
}
