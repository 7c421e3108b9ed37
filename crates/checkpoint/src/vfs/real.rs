//! The file system of the machine.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::thread;

use super::{Entry, Vfs, VfsFile};

/// From this length on it pays to wait for the disk in a thread of its own.
const LARGE: u64 = 8 << 20;

/// Calls the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealVfs;

impl VfsFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Vfs for RealVfs {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>> {
        Ok(Box::new(File::create_new(path)?))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_file_and(&self, path: &Path, meanwhile: &mut dyn FnMut()) -> io::Result<()> {
        if self.length(path)? < LARGE {
            self.sync_file(path)?;
            meanwhile();
            return Ok(());
        }
        thread::scope(|scope| {
            let sync = thread::Builder::new().name("sync".into()).spawn_scoped(scope, || self.sync_file(path))?;
            meanwhile();
            sync.join().unwrap_or_else(|_| Err(io::Error::other("the thread that forces a file to disk ended early")))
        })
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        // Only Unix can force the names in a folder to disk; elsewhere the system sees to it.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A name that is not Unicode was not given by this crate.
            if let Ok(name) = entry.file_name().into_string() {
                let file_type = entry.file_type()?;
                // One that leads nowhere is no folder.
                let is_folder = file_type.is_dir() || file_type.is_symlink() && entry.path().is_dir();
                entries.push(Entry { name, is_folder });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        Ok(fs::symlink_metadata(path)?.is_symlink())
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(File::open(path)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_length_is_forced_to_disk_once_and_the_other_work_is_done_once() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("file");
        for length in [0, LARGE - 1, LARGE] {
            File::create(&path).and_then(|file| file.set_len(length)).expect("there is room");
            let mut times = 0;
            RealVfs.sync_file_and(&path, &mut || times += 1).expect("it is there");
            assert_eq!(times, 1, "{length}");
        }
        fs::remove_file(&path).expect("it is there");
        RealVfs.sync_file_and(&path, &mut || {}).expect_err("it is not there");
    }
}
