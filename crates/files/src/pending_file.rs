//! A file that is written beside its place and takes its name once it is whole.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Ending of a file that is being written.
const ENDING: &str = "part";

/// A file that is written for longer than this belongs to a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Tells apart what this process writes at the same time.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A file under a name that nobody else writes to; dropped before [`PendingFile::publish`], it is gone.
#[derive(Debug)]
pub struct PendingFile {
    path: PathBuf,
    file: File,
}

impl PendingFile {
    /// A new file in `folder`, which is made where it does not exist and lies on the disk of the file's later place.
    pub fn create(folder: &Path) -> io::Result<PendingFile> {
        fs::create_dir_all(folder)?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{}-{number}.{ENDING}", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => return Ok(PendingFile { path, file }),
                // A process of the same number, on another machine or before this one.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is until then, for what writes a file by its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, in the place of what had it before.
    ///
    /// It is not forced to disk: whoever reads it must see what a power cut left of it.
    pub fn publish(mut self, path: &Path) -> io::Result<()> {
        self.file.flush()?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(&self.path, path)
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for PendingFile {
    fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        self.file.seek(place)
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        // Gone already where it was published.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what killed processes left half-written in a folder. It only takes room: what cannot be removed stays.
pub fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if path.extension().is_some_and(|ending| ending == ENDING) && age().is_some_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (root, place) = (folder.path(), folder.path().join("below/a"));
        let mut file = PendingFile::create(root).unwrap();
        file.write_all(b"0new").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(b"a").unwrap();
        assert!(!place.exists());
        file.publish(&place).unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"anew");
        let mut file = PendingFile::create(root).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read(&place).unwrap(), b"anew");
        assert_eq!(names(root), ["below"]);
    }

    #[test]
    fn one_that_cannot_have_its_name_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let file = PendingFile::create(folder.path()).unwrap();
        assert!(file.publish(&folder.path().join("a")).is_err());
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn files_of_one_folder_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        // What a process of the same number left.
        let next = NUMBER.load(Ordering::Relaxed);
        for number in next..next + 8 {
            fs::write(folder.path().join(format!("{}-{number}.{ENDING}", std::process::id())), "left").unwrap();
        }
        let (one, other) = (PendingFile::create(folder.path()).unwrap(), PendingFile::create(folder.path()).unwrap());
        assert_ne!(one.path, other.path);
        one.publish(&folder.path().join("one")).unwrap();
        other.publish(&folder.path().join("other")).unwrap();
        assert_eq!(names(folder.path()).len(), 10);
    }

    #[test]
    fn only_what_was_left_long_ago_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let [left, fresh, other] = ["1-0.part", "2-0.part", "old.txt"].map(|name| folder.path().join(name));
        for path in [&left, &fresh, &other] {
            fs::write(path, "half").unwrap();
        }
        let long_ago = SystemTime::now() - 3 * ABANDONED;
        for path in [&left, &other] {
            File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        remove_abandoned(folder.path());
        assert_eq!(names(folder.path()), ["2-0.part", "old.txt"]);
    }
}
