//! The folder of entries: found, missing or damaged; written so that a name always stands for a whole file.
//!
//! ```text
//! DIR/latents/3f/3fa9….safetensors    an entry; folders of the first two digits keep each of them short
//! DIR/texts/…                         the same for another kind of entries
//! DIR/.tmp/1234-0.part                an entry being written; renamed to its name
//! ```

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sdtrain_files::{PendingFile, free_space, in_words, remove_abandoned};

use crate::entry::Entry;
use crate::error::Error;
use crate::key::EntryName;
use crate::latents::LatentEntry;
use crate::text_states::TextEntry;

/// Entries of one kind by name. Any number of processes may read and write one folder at a time.
#[derive(Clone, Debug)]
pub struct EntryFolder<E> {
    root: PathBuf,
    kind: PhantomData<fn() -> E>,
}

/// Latents of images.
pub type LatentFolder = EntryFolder<LatentEntry>;

/// States of texts.
pub type TextFolder = EntryFolder<TextEntry>;

/// What lies under a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Found<E> {
    /// An entry, every number of it as it was written.
    Entry(E),
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

/// What [`EntryFolder::prune`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Entries.
    pub entries: usize,
    /// Bytes of their files.
    pub bytes: u64,
}

/// An entry that is no older may belong to a run that is being set up beside this process.
const FRESH: Duration = Duration::from_secs(60 * 60);

/// What a disk keeps for everything else that is written to it.
const SPARE: u64 = 64 << 20;

impl<E: Entry> EntryFolder<E> {
    /// Opens or makes the folder, and removes what killed processes left half-written. A complete one may be read-only.
    pub fn open(root: &Path) -> Result<EntryFolder<E>, Error> {
        let entries = root.join(E::FOLDER);
        fs::create_dir_all(&entries).map_err(Error::at("create", &entries))?;
        let folder = EntryFolder { root: root.to_owned(), kind: PhantomData };
        remove_abandoned(&folder.temporary_folder());
        Ok(folder)
    }

    /// The folder that everything lies in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of an entry.
    pub fn path(&self, name: &EntryName) -> PathBuf {
        let name = name.to_string();
        self.root.join(E::FOLDER).join(&name[..2]).join(format!("{name}.safetensors"))
    }

    /// Looks for an entry of this form and checks all of it.
    pub fn read(&self, name: &EntryName, form: E::Form) -> Result<Found<E>, Error> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        // Whatever lies there, no more is read than an entry can have.
        let most = E::most_bytes(form);
        let read = File::open(&path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(error) => return Err(Error::at("read", &path)(error)),
            Ok(_) => {}
        }
        let checked = match bytes.len() as u64 > most {
            true => Err(format!("is longer than the {most} bytes that an entry can have")),
            false => E::from_bytes(bytes, &path, name, form),
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
    /// One that is there and holds more (latents that are mirrored too) stays: another process needs it.
    pub fn write(&self, name: &EntryName, entry: &E) -> Result<(), Error> {
        let path = self.path(name);
        if matches!(self.read(name, entry.form())?, Found::Entry(there) if entry.is_less_than(&there)) {
            return Ok(());
        }
        let bytes = entry.to_bytes(name).map_err(|error| Error::at("write", &path)(io::Error::other(error)))?;
        let mut file = PendingFile::create(&self.temporary_folder()).map_err(Error::at("write", &path))?;
        file.write_all(&bytes).and_then(|()| file.publish(&path)).map_err(Error::at("write", &path))
    }

    /// Refuses to begin what the disk has no room for.
    pub fn check_room(&self, needed: u64) -> Result<(), Error> {
        match free_space(&self.root) {
            Some(free) => check_room(&self.root, needed, free),
            None => Ok(()),
        }
    }

    /// Deletes the entries that are not among `kept`, but for those of the last hour.
    pub fn prune(&self, kept: &HashSet<EntryName>) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        let root = self.root.join(E::FOLDER);
        for folder in listed(&root)?.into_iter().filter(|path| path.is_dir()) {
            for path in listed(&folder)? {
                let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".safetensors"));
                // What is not named like an entry was put there by somebody else.
                let Some(name) = name.and_then(EntryName::parse) else { continue };
                let metadata = match fs::symlink_metadata(&path) {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(Error::at("look at", &path)(error)),
                };
                let age = metadata.modified().ok().and_then(|time| time.elapsed().ok());
                if kept.contains(&name) || age.is_none_or(|age| age < FRESH) {
                    continue;
                }
                fs::remove_file(&path).map_err(Error::at("delete", &path))?;
                pruned.entries += 1;
                pruned.bytes += metadata.len();
            }
        }
        Ok(pruned)
    }

    fn temporary_folder(&self) -> PathBuf {
        self.root.join(".tmp")
    }
}

fn check_room(root: &Path, needed: u64, free: u64) -> Result<(), Error> {
    if needed == 0 || needed.saturating_add(SPARE) <= free {
        return Ok(());
    }
    let reason = format!("{} are needed, {} are free", in_words(needed), in_words(free));
    Err(Error::at("fill", root)(io::Error::new(io::ErrorKind::StorageFull, reason)))
}

fn listed(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>();
    list().map_err(Error::at("list", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_before_it_begins() {
        let root = Path::new("cache");
        assert!(check_room(root, 1 << 30, (1 << 30) + SPARE).is_ok());
        assert!(check_room(root, 0, 0).is_ok(), "a full disk is no reason not to read");
        let error = check_room(root, 3 << 30, 2 << 30).unwrap_err();
        assert_eq!(error.to_string(), "cannot fill `cache`: 3.0 GiB are needed, 2.0 GiB are free");
        assert!(error.hint().is_some_and(|hint| hint.starts_with("free some space")));
    }
}
