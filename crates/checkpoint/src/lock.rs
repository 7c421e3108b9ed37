//! One writer a folder.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::publish::create_folders;
use crate::seeded_bugs::{Bug, seeded};
use crate::vfs::RealVfs;
use crate::{Error, Result};

/// Name of the lock in the folder it guards.
const LOCK_NAME: &str = ".lock";

/// Holds a folder for this process; dropping it, or the end of the process in any way, gives it free.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    // Never read: the lock lasts as long as the file is open.
    _file: File,
}

impl FolderLock {
    /// Takes the folder, making it where it does not exist. [`Error::Locked`] at once where another process has it.
    pub fn acquire(folder: &Path) -> Result<FolderLock> {
        create_folders(&RealVfs, folder)?;
        let path = folder.join(LOCK_NAME);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).context("open", &path)?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) if seeded(Bug::NoLock) => (),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Only for the message; a lock that cannot be read is a lock all the same.
                let _ = Read::by_ref(&mut file).take(64).read_to_string(&mut owner);
                let owner = owner.trim();
                let owner = if owner.is_empty() { String::new() } else { format!(" ({owner})") };
                return Err(Error::Locked { folder: folder.to_owned(), owner });
            }
            Err(TryLockError::Error(error)) => return Err(Error::storage("lock", &path, error)),
        }
        // Who has it, for the message that another process prints.
        let _ = file.set_len(0).and_then(|()| write!(file, "process {}", std::process::id()));
        Ok(FolderLock { folder: folder.to_owned(), _file: file })
    }

    /// The folder it guards.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_is_refused_and_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        assert_eq!(lock.folder(), folder.path());
        let error = FolderLock::acquire(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }));
        assert!(error.to_string().ends_with(&format!("is in use by another run (process {})", std::process::id())));
        assert!(error.hint().is_some());
        drop(lock);
        FolderLock::acquire(folder.path()).unwrap();
    }

    #[test]
    fn makes_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        FolderLock::acquire(&folder.path().join("a/b")).unwrap();
        assert!(folder.path().join("a/b").is_dir());
    }
}
