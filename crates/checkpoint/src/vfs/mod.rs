//! The file calls a checkpoint is made of, as a trait: real, failing, or cut off.

mod crash;
mod fault;
mod real;

use std::io::{self, Read, Write};
use std::path::Path;

pub use crash::{CrashVfs, Survives};
pub use fault::{FaultVfs, Repeat};
pub use real::RealVfs;

/// A file being written.
pub trait VfsFile: Write {
    /// Forces the content to disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// Something in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is a folder, or a symbolic link to one.
    pub is_folder: bool,
}

/// A file system, in the few calls that publishing needs. Nothing in this crate touches the disk in another way, the lock excepted.
pub trait Vfs {
    /// Makes one folder; an error where it exists.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes a file that does not exist yet.
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>>;
    /// Forces the content of an existing file to disk.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Forces the content of an existing file to disk, and does something with it `meanwhile`, at the latest afterwards.
    fn sync_file_and(&self, path: &Path, meanwhile: &mut dyn FnMut()) -> io::Result<()> {
        self.sync_file(path)?;
        meanwhile();
        Ok(())
    }
    /// Forces the names in a folder to disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Gives a file or folder another name in the same folder. A file in its place is replaced; a folder is not.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// What is in a folder, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Whether there is a file or folder of this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Whether this name is a symbolic link, wherever it leads to.
    fn is_link(&self, _path: &Path) -> io::Result<bool> {
        Ok(false)
    }
    /// Length of a file.
    fn length(&self, path: &Path) -> io::Result<u64>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + '_>>;
}

/// Removes a folder with everything in it. Of a symbolic link only the link goes: what it leads to lies elsewhere and is not ours.
pub(crate) fn remove_all(vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
    if vfs.is_link(path)? {
        return vfs.remove_file(path);
    }
    for entry in vfs.list(path)? {
        let inner = path.join(&entry.name);
        if entry.is_folder { remove_all(vfs, &inner)? } else { vfs.remove_file(&inner)? }
    }
    vfs.remove_folder(path)
}

/// Reads a file up to a length; a longer one is an error.
pub(crate) fn read_up_to(vfs: &dyn Vfs, path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    vfs.open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is far too long"));
    }
    Ok(bytes)
}
