//! Fetches files: told before it begins, continued where it ended, put in place only when complete.
//!
//! Beside the file `x.tar` lie `.x.tar.part`, as much of it as has come, and `.x.tar.fetched`, what the server said of it: its
//! length and its entity tag. A part is continued only as long as the server says the same.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use object_store::{Error, GetOptions, GetRange, ObjectMeta};
use sdtrain_files::{Backoff, free_space, say};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::store::{Failure, Remote, path_of, server_of, store_of};
use crate::DataError;

/// Files that come at the same time: one connection rarely fills the line.
const AT_ONCE: usize = 4;
/// Files whose length is asked for at the same time.
const ASKED_AT_ONCE: usize = 8;
/// A list of hundreds helps nobody.
const MOST_ERRORS: usize = 10;
/// How often it is said how far it is.
const REPORTS: Duration = Duration::from_secs(30);
/// Stays free for everything else that is written to the disk.
const SPARE: u64 = 64 << 20;

/// How patient it is, and whom it tells.
pub(super) struct Settings {
    /// How often a file is asked for without any more of it coming.
    pub attempts: u32,
    /// Wait in front of the second attempt; it doubles.
    pub pause: Duration,
    /// The environment.
    pub variables: Vec<(String, String)>,
    /// Says what is going on.
    pub tell: fn(&str),
}

impl Settings {
    /// Those of a run.
    pub fn usual() -> Settings {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Settings {
            attempts: 6,
            pause: Duration::from_millis(500),
            variables: std::env::vars_os().filter_map(text).collect(),
            tell: |text| say!("{text}"),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.attempts, self.pause)
    }
}

/// What a server says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    length: u64,
    e_tag: Option<String>,
}

impl Facts {
    fn of(meta: &ObjectMeta) -> Facts {
        Facts { length: meta.size, e_tag: meta.e_tag.clone() }
    }

    fn read(file: &Path) -> Option<Facts> {
        let value: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        Some(Facts { length: value["length"].as_u64()?, e_tag: value["e_tag"].as_str().map(str::to_owned) })
    }

    fn write(&self, file: &Path, address: &str) -> io::Result<()> {
        let value = json!({ "address": address, "length": self.length, "e_tag": self.e_tag });
        fs::write(file, value.to_string())
    }
}

/// Fetches every file that is not there, each to its place.
pub(super) fn fetch_all(
    wanted: &BTreeMap<String, PathBuf>,
    folder: &Path,
    settings: &Settings,
) -> Result<(), DataError> {
    let missing: Vec<(&String, &PathBuf)> = wanted.iter().filter(|(_, file)| !is_complete(file)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let failed = |reason: String| DataError::source_file(folder, None, reason);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| failed(format!("nothing can be fetched: {e}")))?;
    runtime.block_on(async {
        let files = ask_for_lengths(&missing, settings).await?;
        let left: u64 = files.iter().map(Download::left).sum();
        tell_size(&files, left, folder, settings);
        if let Some(free) = free_space(folder) {
            check_room(folder, left, free)?;
        }
        let progress =
            Progress { fetched: Cell::new(0), all: left, last: Cell::new(Instant::now()), tell: settings.tell };
        let fetching = files.into_iter().map(|file| file.fetch(settings, &progress));
        let errors = errors_of(stream::iter(fetching).buffer_unordered(AT_ONCE)).await;
        DataError::all(errors)?;
        (settings.tell)(&format!("fetched {}", bytes(progress.fetched.get())));
        Ok(())
    })
}

/// Whether a file is there with the length that its server said. One that somebody put there is believed.
fn is_complete(file: &Path) -> bool {
    let Ok(metadata) = fs::metadata(file) else { return false };
    metadata.is_file() && Facts::read(&beside(file, "fetched")).is_none_or(|facts| facts.length == metadata.len())
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    file.with_file_name(format!(".{}.{ending}", file.file_name().unwrap_or_default().to_string_lossy()))
}

async fn ask_for_lengths<'a>(
    missing: &[(&'a String, &'a PathBuf)],
    settings: &Settings,
) -> Result<Vec<Download<'a>>, DataError> {
    let mut stores = HashMap::new();
    let mut files = Vec::new();
    for (address, file) in missing {
        let place = Place { address, file };
        let server = server_of(address);
        let store = match stores.get(server) {
            Some(store) => std::sync::Arc::clone(store),
            None => store_of(server, &settings.variables).map_err(|failure| place.error(failure))?,
        };
        stores.insert(server, store.clone());
        files.push((place, Remote { store, path: path_of(address).map_err(|failure| place.error(failure))? }));
    }
    let asking = files.into_iter().map(async |(place, remote)| {
        let mut backoff = settings.backoff();
        loop {
            match remote.facts(place.address).await {
                Ok(facts) => return Ok(Download { place, remote, facts }),
                Err(failure) => again(&mut backoff, failure, 0).await.map_err(|failure| {
                    let concerns_all = matches!(failure, Failure::Passing(..));
                    (place.error(failure), concerns_all)
                })?,
            }
        }
    });
    let mut asking = stream::iter(asking).buffered(ASKED_AT_ONCE);
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    while let Some(answer) = asking.next().await {
        match answer {
            Ok(download) => found.push(download),
            // Where the network is away, the others would only take as long to say the same.
            Err((error, concerns_all)) => {
                errors.push(error);
                if concerns_all || errors.len() == MOST_ERRORS {
                    break;
                }
            }
        }
    }
    DataError::all(errors)?;
    Ok(found)
}

async fn errors_of(results: impl stream::Stream<Item = Result<(), DataError>>) -> Vec<DataError> {
    let mut results = std::pin::pin!(results);
    let mut errors = Vec::new();
    while let Some(result) = results.next().await {
        errors.extend(result.err());
        // The others would run into the same, and each is continued later.
        if !errors.is_empty() {
            break;
        }
    }
    errors
}

impl Remote {
    async fn facts(&self, address: &str) -> Result<Facts, Failure> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let answer = self.store.get_opts(&self.path, options).await;
        answer.map(|answer| Facts::of(&answer.meta)).map_err(|error| Failure::of(&error, address))
    }
}

/// An address and the file it becomes.
#[derive(Clone, Copy)]
struct Place<'a> {
    address: &'a str,
    file: &'a Path,
}

impl Place<'_> {
    fn error(&self, failure: Failure) -> DataError {
        let (reason, hint) = match failure {
            Failure::Final(reason, hint) => (reason, hint),
            Failure::Passing(reason) => (
                format!("cannot be fetched: {reason}"),
                match fs::metadata(beside(self.file, "part")).map_or(0, |part| part.len()) {
                    0 => "is the network there? the same command tries again".to_owned(),
                    here => format!("the same command goes on behind the {} that are here", bytes(here)),
                },
            ),
        };
        DataError::source_file(Path::new(self.address), None, reason).with_hint(hint)
    }
}

/// Waits, or gives the failure back where it is the last. `here`: bytes of the file that are here.
async fn again(backoff: &mut Backoff, failure: Failure, here: u64) -> Result<(), Failure> {
    let pause = backoff.failed(here).filter(|_| matches!(failure, Failure::Passing(..)));
    let Some(pause) = pause else { return Err(failure) };
    sleep(pause).await;
    Ok(())
}

/// A file on its way.
struct Download<'a> {
    place: Place<'a>,
    remote: Remote,
    facts: Facts,
}

impl Download<'_> {
    /// Bytes that are still to come.
    fn left(&self) -> u64 {
        let part = fs::metadata(beside(self.place.file, "part")).map_or(0, |part| part.len());
        let continues = Facts::read(&beside(self.place.file, "fetched")).as_ref() == Some(&self.facts);
        self.facts.length.saturating_sub(if continues { part } else { 0 })
    }

    async fn fetch(mut self, settings: &Settings, progress: &Progress) -> Result<(), DataError> {
        let place = self.place;
        let mut part = self.open().await.map_err(|error| place.error(local(&error, place.file)))?;
        let Some(part) = &mut part else { return Ok(()) };
        let mut backoff = settings.backoff();
        loop {
            match self.attempt(part, progress).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    let here = part.metadata().map_or(0, |part| part.len());
                    again(&mut backoff, failure, here).await.map_err(|failure| place.error(failure))?;
                }
            }
            // The file may have been exchanged; a server that is away now may be there for the next attempt.
            if let Ok(facts) = self.remote.facts(place.address).await {
                self.facts = facts;
            }
        }
    }

    /// The part, held for this process; none where another one has completed the file meanwhile.
    async fn open(&self) -> io::Result<Option<File>> {
        if let Some(folder) = self.place.file.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = File::options();
        let part = options.read(true).write(true).create(true).truncate(false).open(beside(self.place.file, "part"))?;
        // Waiting must not stop the other files of this process, or two processes could wait for each other for ever.
        while let Err(TryLockError::WouldBlock) = part.try_lock() {
            sleep(Duration::from_millis(200)).await;
        }
        if !is_complete(self.place.file) {
            return Ok(Some(part));
        }
        if part.metadata()?.len() == 0 {
            let _ = fs::remove_file(beside(self.place.file, "part"));
        }
        Ok(None)
    }

    async fn attempt(&self, part: &mut File, progress: &Progress) -> Result<(), Failure> {
        let Download { place, remote, facts } = self;
        let local = |error: io::Error| local(&error, place.file);
        let of_server = |error: Error| Failure::of(&error, place.address);
        let record = beside(place.file, "fetched");
        let mut here = part.metadata().map_err(local)?.len();
        if here > facts.length || Facts::read(&record).as_ref() != Some(facts) {
            here = 0;
            part.set_len(0).map_err(local)?;
            facts.write(&record, place.address).map_err(local)?;
        }
        if here < facts.length {
            let range = (here > 0).then_some(GetRange::Offset(here));
            let options = GetOptions { range, ..GetOptions::default() };
            let answer = match remote.store.get_opts(&remote.path, options).await {
                Err(Error::NotSupported { .. }) => {
                    here = 0;
                    part.set_len(0).map_err(local)?;
                    remote.store.get_opts(&remote.path, GetOptions::default()).await.map_err(of_server)?
                }
                answer => answer.map_err(of_server)?,
            };
            let now = Facts::of(&answer.meta);
            if now != *facts {
                part.set_len(0).map_err(local)?;
                let what = match now.length == facts.length {
                    true => "has become another file while it was fetched".to_owned(),
                    false => {
                        format!("has {} bytes by one answer of the server and {} by another", facts.length, now.length)
                    }
                };
                return Err(Failure::Passing(what));
            }
            part.seek(SeekFrom::Start(here)).map_err(local)?;
            let mut chunks = answer.into_stream();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(of_server)?;
                part.write_all(&chunk).map_err(local)?;
                here += chunk.len() as u64;
                progress.add(chunk.len() as u64);
            }
        }
        if here != facts.length {
            // More cannot be right from the start; of too little the rest is asked for.
            if here > facts.length {
                part.set_len(0).map_err(local)?;
            }
            return Err(Failure::Passing(format!("{here} of its {} bytes came", facts.length)));
        }
        part.sync_all().map_err(local)?;
        fs::rename(beside(place.file, "part"), place.file).map_err(local)
    }
}

fn local(error: &io::Error, file: &Path) -> Failure {
    let folder = file.parent().unwrap_or(file).display();
    match error.kind() {
        io::ErrorKind::StorageFull => Failure::Final(
            format!("does not fit: the disk of `{folder}` is full"),
            "make room there, or set `data.download_dir` to a folder on another disk".to_owned(),
        ),
        _ => Failure::Final(
            format!("cannot be kept in `{folder}`: {error}"),
            "set `data.download_dir` to a folder that can be written".to_owned(),
        ),
    }
}

/// Refuses what the disk has no room for before hours are spent on it.
pub(super) fn check_room(folder: &Path, needed: u64, free: u64) -> Result<(), DataError> {
    if needed.saturating_add(SPARE) <= free {
        return Ok(());
    }
    let reason =
        format!("has no room for what is to be fetched: {} are needed, {} are free", bytes(needed), bytes(free));
    let error = DataError::source_file(folder, None, reason);
    Err(error.with_hint("make room there, or set `data.download_dir` to a folder on another disk"))
}

fn tell_size(files: &[Download], left: u64, folder: &Path, settings: &Settings) {
    let Some(first) = files.first() else { return };
    let what = match files.len() {
        1 => format!("`{}`", first.place.address),
        count => format!("{count} files from `{}` on", first.place.address),
    };
    (settings.tell)(&format!("fetching {what}: {} to `{}`", bytes(left), folder.display()));
}

/// How far all files together are.
struct Progress {
    fetched: Cell<u64>,
    all: u64,
    last: Cell<Instant>,
    tell: fn(&str),
}

impl Progress {
    fn add(&self, count: u64) {
        self.fetched.set(self.fetched.get() + count);
        if self.last.get().elapsed() >= REPORTS {
            self.last.set(Instant::now());
            (self.tell)(&format!("fetched {} of {}", bytes(self.fetched.get()), bytes(self.all)));
        }
    }
}

/// `3.4 GB`.
fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}
