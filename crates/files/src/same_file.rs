//! Whether a file that is held open is still the one that has its name.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether `file` is what is found at `path` now: it may have been moved or deleted, and another one made in its place.
///
/// # Errors
/// Where the disk does not tell; that nothing is there, it tells.
pub fn is_same_file(path: &Path, file: &File) -> io::Result<bool> {
    let found = match fs::metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
        found => found?,
    };
    let held = file.metadata()?;
    Ok((found.dev(), found.ino()) == (held.dev(), held.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_another_files_by_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        assert!(is_same_file(&path, &file).unwrap());
        fs::rename(&path, folder.path().join("moved")).unwrap();
        assert!(!is_same_file(&path, &file).unwrap());
        let another = File::create(&path).unwrap();
        assert!(!is_same_file(&path, &file).unwrap() && is_same_file(&path, &another).unwrap());
        assert!(!is_same_file(&path.join("below-a-file"), &file).unwrap());
    }
}
