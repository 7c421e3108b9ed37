//! One file: continued where it ended, checked, and only then given its place.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Response, StatusCode};

use crate::cache::Repository;
use crate::client::{Client, Failure, Tries, passing};
use crate::error::Error;
use crate::fetch::{Progress, RemoteFile};
use crate::settings::Settings;

/// What the transfers of one name have in common.
pub(crate) struct Transfer<'a> {
    pub(crate) client: &'a Client,
    pub(crate) settings: &'a Settings,
    pub(crate) repository: &'a Repository,
    /// `ORG/REPO`.
    pub(crate) id: &'a str,
    pub(crate) commit: &'a str,
    /// As it was asked for, for messages.
    pub(crate) name: &'a str,
    pub(crate) tally: Tally<'a>,
}

/// Bytes that are here, of all that are wanted.
pub(crate) struct Tally<'a> {
    done: Cell<u64>,
    progress: &'a dyn Progress,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(progress: &'a dyn Progress) -> Tally<'a> {
        Tally { done: Cell::new(0), progress }
    }

    /// A file has `now` bytes instead of `before`.
    fn changed(&self, before: u64, now: u64) {
        self.done.set((self.done.get() + now).saturating_sub(before));
        self.progress.at(self.done.get());
    }
}

/// How many bytes of a file have come, here and in the tally.
struct Part<'t> {
    file: File,
    length: u64,
    tally: &'t Tally<'t>,
}

impl Part<'_> {
    fn set_length(&mut self, length: u64) -> std::io::Result<()> {
        self.file.set_len(length)?;
        self.tally.changed(self.length, length);
        self.length = length;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        let now = self.length + bytes.len() as u64;
        self.tally.changed(self.length, now);
        self.length = now;
        Ok(())
    }
}

impl Transfer<'_> {
    /// Brings a file into the cache and gives it its name in the commit.
    ///
    /// # Errors
    /// Where it does not come however often it is asked for, is not what the hub says, or cannot be kept.
    pub(crate) async fn fetch(&self, file: &RemoteFile) -> Result<(), Failure> {
        let blob = self.repository.blob(&file.hash);
        let wait = || self.tally.progress.note(&format!("waiting for `{}`, which is being fetched already", file.name));
        let _lock = self.repository.lock(&file.hash, wait).await?;
        // Another process may just have fetched it; on a disk without links there is no blob then.
        let named = self.repository.snapshot(self.commit).join(&file.name);
        if fs::metadata(&named).is_ok_and(|there| there.len() == file.size) {
            self.tally.changed(0, file.size);
            return Ok(());
        }
        // Of the same content another name may be here.
        if fs::metadata(&blob).is_ok_and(|there| there.len() == file.size) {
            self.tally.changed(0, file.size);
        } else {
            self.complete(file).await?;
            self.repository.publish(&file.hash)?;
        }
        Ok(self.repository.link(self.commit, &file.name, &file.hash)?)
    }

    /// Completes the part of a file.
    async fn complete(&self, file: &RemoteFile) -> Result<(), Failure> {
        let path = self.repository.incomplete(&file.hash);
        let open = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let part = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            let length = part.metadata()?.len();
            Ok((part, length))
        };
        let (part, length) = open().map_err(Error::io(&path))?;
        let mut part = Part { file: part, length, tally: &self.tally };
        self.tally.changed(0, length);
        // What somebody else began may be wrong; what came in one go from the beginning is wrong for good.
        let mut is_inherited = length > 0;
        let mut tries = Tries::new(self.settings);
        loop {
            while let Err(failure) = self.attempt(file, &mut part).await {
                let failure = match tries.again(failure, part.length).await {
                    Ok(()) => continue,
                    Err(failure) => failure,
                };
                return Err(match failure {
                    Failure::Passing(reason) | Failure::Busy(reason, _) => {
                        self.unreachable(file, reason, part.length).into()
                    }
                    other => other,
                });
            }
            let (expected, at) = (file.hash.clone(), path.clone());
            // Gigabytes take seconds, in which the other files go on.
            let found = tokio::task::spawn_blocking(move || expected.of_same_kind(&at)).await;
            let found = found.unwrap_or_else(|error| Err(error.into())).map_err(Error::io(&path))?;
            if found.equals(&file.hash) {
                return Ok(());
            }
            part.set_length(0).map_err(Error::io(&path))?;
            if !is_inherited {
                fs::remove_file(&path).map_err(Error::io(&path))?;
                return Err(Failure::Final(Error::WrongHash {
                    name: self.name.to_owned(),
                    file: file.in_words(),
                    expected: file.hash.as_str().to_owned(),
                    found: found.as_str().to_owned(),
                }));
            }
            is_inherited = false;
        }
    }

    /// Asks once for what is missing of a part.
    async fn attempt(&self, file: &RemoteFile, part: &mut Part<'_>) -> Result<(), Failure> {
        let path = self.repository.incomplete(&file.hash);
        if part.length > file.size {
            part.set_length(0).map_err(Error::io(&path))?;
        }
        if part.length < file.size {
            let url = self.client.address(address_of(self.id, self.commit, &file.name));
            let mut answer = self.client.content(url, part.length).await?;
            let start = start_of(&answer, file.size)?;
            if start != part.length {
                // A server without ranges sends all of it.
                part.set_length(0).map_err(Error::io(&path))?;
                if start != 0 {
                    return Err(Failure::Passing("the server sends another part than it was asked for".to_owned()));
                }
            }
            part.file.seek(SeekFrom::Start(part.length)).map_err(Error::io(&path))?;
            while let Some(chunk) = answer.chunk().await.map_err(passing)? {
                if part.length + chunk.len() as u64 > file.size {
                    part.set_length(0).map_err(Error::io(&path))?;
                    return Err(Failure::Passing(format!("more than its {} bytes came", file.size)));
                }
                part.append(&chunk).map_err(Error::io(&path))?;
            }
        }
        match part.length == file.size {
            true => Ok(()),
            false => Err(Failure::Passing(format!("{} of its {} bytes came", part.length, file.size))),
        }
    }

    fn unreachable(&self, file: &RemoteFile, reason: String, here: u64) -> Error {
        Error::Unreachable {
            name: self.name.to_owned(),
            file: file.in_words(),
            server: self.client.server(),
            reason,
            here,
        }
    }
}

/// The parts of a file's address on the hub.
pub(crate) fn address_of<'p>(id: &'p str, commit: &'p str, name: &'p str) -> impl Iterator<Item = &'p str> {
    id.split('/').chain(["resolve", commit]).chain(name.split('/'))
}

/// At which byte an answer begins.
fn start_of(answer: &Response, size: u64) -> Result<u64, Failure> {
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        let length = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        return match length {
            Some(length) if length != size => {
                Err(Failure::Passing(format!("it has {length} bytes, where the hub states {size}")))
            }
            _ => Ok(0),
        };
    }
    let range = header(CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes ")?.split_once('-'));
    range
        .and_then(|(start, _)| start.trim().parse().ok())
        .ok_or_else(|| Failure::Passing("the server does not say which part it sends".to_owned()))
}
