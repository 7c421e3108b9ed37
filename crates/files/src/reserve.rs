//! Room on a disk that is kept free of others until it is needed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::same_file::is_same_file;

/// A file without content that holds room. It goes when this is dropped, unless another file has its name by then; one that a killed
/// process left behind is taken over by the next that asks for the same path.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    file: File,
}

impl Reserve {
    /// Takes `bytes` of the disk for a file at `path`; none where the file system cannot reserve.
    ///
    /// # Errors
    /// Where there is no such room, or no file can be made there.
    pub fn take(path: &Path, bytes: u64) -> io::Result<Option<Reserve>> {
        // From here on the file goes with this, also where it cannot grow.
        let reserve = Reserve { path: path.to_path_buf(), file: File::create(path)? };
        Ok(allocate(&reserve.file, bytes)?.then_some(reserve))
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // The folder may have been moved or deleted, and be another's now.
        if is_same_file(&self.path, &self.file).unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether the file has so much room now. Not by writing: where the file system does not know how, it would take as long as a copy.
#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: u64) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if bytes == 0 {
        return Ok(false);
    }
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> io::Result<bool> {
    Ok(false)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn room_is_taken_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".reserve");
        fs::write(&path, "of a process that was killed").unwrap();
        let Some(reserve) = Reserve::take(&path, 1 << 20).unwrap() else {
            eprintln!("SKIPPED: this file system cannot reserve");
            return;
        };
        let there = fs::metadata(&path).unwrap();
        assert_eq!((there.len(), there.blocks() * 512 >= 1 << 20), (1 << 20, true));
        drop(reserve);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_has_its_name_by_now_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join(".reserve");
        let Some(reserve) = Reserve::take(&path, 1 << 12).unwrap() else {
            eprintln!("SKIPPED: this file system cannot reserve");
            return;
        };
        fs::rename(&path, scratch.path().join("moved")).unwrap();
        fs::write(&path, "of another run").unwrap();
        drop(reserve);
        assert_eq!(fs::read_to_string(&path).unwrap(), "of another run");
    }

    #[test]
    fn room_that_is_not_there_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".reserve");
        assert!(!matches!(Reserve::take(&path, 1 << 60), Ok(Some(_))));
        assert!(!path.exists());
        assert!(Reserve::take(&folder.path().join("no/folder"), 1).is_err());
    }
}
