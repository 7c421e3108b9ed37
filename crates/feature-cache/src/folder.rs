//! The folder of entries: found, missing or damaged; written so that a name always stands for a whole file.
//!
//! ```text
//! DIR/latents/3f/3fa9….safetensors    an entry; folders of the first two digits keep each of them short
//! DIR/.tmp/1234-0                     an entry being written; renamed to its name
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::entry::{LatentEntry, file_bytes};
use crate::error::Error;
use crate::key::EntryName;

/// Latents by name. Any number of processes may read and write one folder at a time.
#[derive(Clone, Debug)]
pub struct LatentFolder {
    root: PathBuf,
}

/// What lies under a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// An entry, every number of it as it was written.
    Entry(LatentEntry),
    /// Nothing.
    Missing,
    /// A file that is no longer what was written; it has been deleted.
    Damaged {
        /// The file that was.
        path: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
}

/// A file that is written for longer than this belongs to a process that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Tells apart what this process writes at the same time.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl LatentFolder {
    /// Opens or makes the folder, and removes what killed processes left half-written. A complete one may be read-only.
    pub fn open(root: &Path) -> Result<LatentFolder, Error> {
        let latents = root.join("latents");
        fs::create_dir_all(&latents).map_err(Error::at("create", &latents))?;
        let folder = LatentFolder { root: root.to_owned() };
        folder.remove_abandoned();
        Ok(folder)
    }

    /// The folder that everything lies in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of an entry.
    pub fn path(&self, name: &EntryName) -> PathBuf {
        let name = name.to_string();
        self.root.join("latents").join(&name[..2]).join(format!("{name}.safetensors"))
    }

    /// Looks for an entry whose tensors have `shape` (`[channels, height, width]`) and checks all of it.
    pub fn read(&self, name: &EntryName, shape: [usize; 3]) -> Result<Found, Error> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        // Whatever lies there, no more is read than an entry can have.
        let most = file_bytes(shape, true);
        let read = File::open(&path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(error) => return Err(Error::at("read", &path)(error)),
            Ok(_) => {}
        }
        let checked = match bytes.len() as u64 > most {
            true => Err(format!("is longer than the {most} bytes that an entry can have")),
            false => LatentEntry::from_bytes(bytes, &path, name, shape),
        };
        match checked {
            Ok(entry) => Ok(Found::Entry(entry)),
            Err(reason) => {
                // Where it cannot be deleted, the new one takes its place; where that fails too, that is the error.
                let _ = fs::remove_file(&path);
                Ok(Found::Damaged { path, reason })
            }
        }
    }

    /// Puts an entry in its place. The file is not forced to disk: one that a power cut cut short is found damaged.
    ///
    /// One that is there and mirrored too stays where the new one is not: another process needs it.
    pub fn write(&self, name: &EntryName, entry: &LatentEntry) -> Result<(), Error> {
        let path = self.path(name);
        if entry.mirrored.is_none()
            && matches!(self.read(name, entry.shape)?, Found::Entry(there) if there.mirrored.is_some() && there.origin == entry.origin)
        {
            return Ok(());
        }
        let bytes = entry.to_bytes(name).map_err(|error| Error::at("write", &path)(io::Error::other(error)))?;
        let temporary = self.write_temporary(&bytes)?;
        let published = fs::create_dir_all(path.parent().unwrap_or(&self.root))
            .map_err(Error::at("create the folder of", &path))
            .and_then(|()| fs::rename(&temporary, &path).map_err(Error::at("rename to", &path)));
        if published.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        published
    }

    /// A new file with these bytes, under a name that nobody else writes to.
    fn write_temporary(&self, bytes: &[u8]) -> Result<PathBuf, Error> {
        let folder = self.temporary_folder();
        fs::create_dir_all(&folder).map_err(Error::at("create", &folder))?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{}-{number}", std::process::id()));
            let mut file = match File::create_new(&path) {
                Ok(file) => file,
                // A process of the same number, on another machine or before this one.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::at("create", &path)(error)),
            };
            if let Err(error) = file.write_all(bytes) {
                let _ = fs::remove_file(&path);
                return Err(Error::at("write", &path)(error));
            }
            return Ok(path);
        }
    }

    fn temporary_folder(&self) -> PathBuf {
        self.root.join(".tmp")
    }

    fn remove_abandoned(&self) {
        for file in fs::read_dir(self.temporary_folder()).into_iter().flatten().flatten() {
            let age =
                file.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > ABANDONED) {
                // It only takes room; another start tries again.
                let _ = fs::remove_file(file.path());
            }
        }
    }
}
