//! A lock that says it is alive, for machines that share a folder and do not see each other's locks.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sdtrain_files::is_same_file;

use super::owner::Owner;
use crate::error::Context;
use crate::{Error, Result};

/// How often a holder says that it is alive, and how long others look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between two beats.
    pub beat: Duration,
    /// How long a holder is watched before it counts as dead: more than three beats.
    pub watch: Duration,
    /// How long after writing its name a process looks whether it is still there. Two that begin at the same moment write one after the
    /// other, within the time that a server takes to answer; the last one has the folder.
    pub settle: Duration,
}

impl Pace {
    pub const USUAL: Pace =
        Pace { beat: Duration::from_secs(2), watch: Duration::from_secs(7), settle: Duration::from_secs(1) };
    #[cfg(test)]
    pub const QUICK: Pace =
        Pace { beat: Duration::from_millis(20), watch: Duration::from_millis(200), settle: Duration::from_millis(5) };
}

/// Writes a count into the file of a lock until it is dropped, and then empties it.
#[derive(Debug)]
pub(super) struct Heartbeat {
    path: PathBuf,
    // The file itself, since another one may have its name by now.
    file: File,
    owner: Owner,
    is_lost: Arc<AtomicBool>,
    end: Option<Sender<()>>,
    beating: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Makes `owner` the one whose name stands in `file`, unless one on another machine is alive, and goes on saying so.
    ///
    /// # Errors
    /// [`Error::Locked`] by another machine, and where the file cannot be read or written.
    pub fn start(folder: &Path, path: &Path, file: &File, owner: &Owner, pace: Pace) -> Result<Heartbeat> {
        let locked = |owner: &Owner| Error::Locked { folder: folder.to_owned(), owner: owner.in_words() };
        if let Some(other) = living_elsewhere(path, pace).context("read", path)? {
            return Err(locked(&other));
        }
        write(file, owner, 0).context("write", path)?;
        thread::sleep(pace.settle);
        let found = read(path).context("read", path)?;
        if !found.is_same_process(owner) {
            return Err(locked(&found));
        }
        let is_lost = Arc::new(AtomicBool::new(false));
        let (end, ended) = mpsc::channel();
        let beat = {
            let (file, path, owner) = (file.try_clone().context("open", path)?, path.to_owned(), owner.clone());
            let is_lost = Arc::clone(&is_lost);
            move || {
                for beat in 1.. {
                    if ended.recv_timeout(pace.beat) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                    // What the disk refuses for a while is tried at the next beat.
                    match read(&path) {
                        Ok(found) if !found.is_same_process(&owner) => return is_lost.store(true, Ordering::Release),
                        Ok(_) => drop(write(&file, &owner, beat)),
                        Err(_) => (),
                    }
                }
            }
        };
        let beating = thread::Builder::new().name("lock".to_owned()).spawn(beat).context("watch", path)?;
        Ok(Heartbeat {
            path: path.to_owned(),
            file: file.try_clone().context("open", path)?,
            owner: owner.clone(),
            is_lost,
            end: Some(end),
            beating: Some(beating),
        })
    }

    /// Whether another machine has taken the lock over.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.beating.take().map(JoinHandle::join);
        // So that the next one, wherever it runs, need not watch. Under its name lies another file where the folder went away.
        let is_there = is_same_file(&self.path, &self.file).unwrap_or(false);
        let is_ours = !is_there || read(&self.path).is_ok_and(|found| found.is_same_process(&self.owner));
        if is_ours && !self.is_lost() {
            let _ = self.file.set_len(0);
        }
    }
}

/// The holder that the file names, where it says that it is alive while it is watched.
///
/// One of this machine is watched as well: two containers may have mounted the same disk each for itself, where neither sees the other's
/// locks. Only quick answers count, since a server that stands still keeps the holder from writing, too.
///
/// # Errors
/// Where the file cannot be read for many times as long as it takes to watch.
pub(super) fn living_elsewhere(path: &Path, pace: Pace) -> io::Result<Option<Owner>> {
    let first = read(path)?;
    // Nobody, or one that does not count.
    if first.beat.is_empty() {
        return Ok(None);
    }
    let (began, mut unchanged_since) = (Instant::now(), Instant::now());
    while unchanged_since.elapsed() < pace.watch {
        thread::sleep(pace.beat / 4);
        let asked = Instant::now();
        match read(path) {
            Ok(now) if now != first => return Ok(Some(now).filter(|now| !now.process.is_empty())),
            Ok(_) if asked.elapsed() < pace.beat => (),
            Err(error) if began.elapsed() > pace.watch * 20 => return Err(error),
            _ => unchanged_since = Instant::now(),
        }
    }
    Ok(None)
}

/// What the file says now: opened anew, since that is when NFS asks its server.
fn read(path: &Path) -> io::Result<Owner> {
    let mut text = String::new();
    File::open(path)?.take(1024).read_to_string(&mut text)?;
    Ok(Owner::parse(&text))
}

/// One write of the whole text, so that nobody reads half a name, and to the server at once.
pub(super) fn write(file: &File, owner: &Owner, beat: u64) -> io::Result<()> {
    let text = owner.at_beat(beat).to_text();
    file.write_all_at(text.as_bytes(), 0)?;
    if file.metadata()?.len() != text.len() as u64 {
        file.set_len(text.len() as u64)?;
    }
    file.sync_data()
}
