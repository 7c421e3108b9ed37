//! From a name to files in the cache: looks it up, fetches what describes it, and then its weights.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use sdtrain_files::free_space;
use sdtrain_recipe::HubName;
use serde_json::Value as Json;

use crate::cache::Repository;
use crate::client::{Client, Failure, Tries};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::selection::{Names, Selection, Wanted, has_variants_alone, is_complete};
use crate::settings::Settings;
use crate::transfer::{Tally, Transfer, address_of};

/// Files that come at the same time: one connection rarely fills the line.
const AT_ONCE: usize = 4;
/// Files that are asked about at the same time.
const ASKED_AT_ONCE: usize = 8;
/// Stays free for everything else that is written to the disk.
const SPARE: u64 = 64 << 20;
/// What describes a model is smaller; the largest vocabularies have some 30 MB.
const LARGEST_SMALL: u64 = 128 << 20;

/// Is told how far a fetch is.
pub trait Progress {
    /// So many files with so many bytes are about to come.
    fn begin(&self, files: usize, bytes: u64);
    /// So many bytes of them are here.
    fn at(&self, bytes: u64);
    /// Something that takes a while.
    fn note(&self, text: &str);
}

/// A file of a repository that is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub name: String,
    /// Bytes that it has.
    pub size: u64,
    pub(crate) hash: Hash,
}

impl RemoteFile {
    pub(crate) fn in_words(&self) -> String {
        format!("`{}`", self.name)
    }
}

/// What there is of a name: everything but the weights that are still missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The file or folder in the cache that the name stands for. It may lack what is missing.
    pub path: PathBuf,
    /// What [`fetch`] would fetch.
    pub missing: Vec<RemoteFile>,
    /// Something to be said of it, in a message's words.
    pub note: Option<String>,
    commit: String,
    moves: bool,
}

impl Prepared {
    /// The commit that the revision is for this name.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Whether that is another than the one that was in the cache.
    pub fn moves(&self) -> bool {
        self.moves
    }

    /// Bytes of all that is missing.
    pub fn missing_bytes(&self) -> u64 {
        self.missing.iter().map(|file| file.size).sum()
    }
}

/// Looks a name up and fetches what describes it: configurations, tokenizers and lists of shards, a few megabytes. Where everything
/// that is wanted is in the cache, the hub is not asked. A branch stays at the commit that is in the cache, as long as that has what is
/// wanted.
///
/// # Errors
/// Where there is no such thing, it may not be read or does not come.
pub fn prepare(name: &HubName, wanted: &Wanted, settings: &Settings) -> Result<Prepared> {
    let ask = || -> Result<Prepared> {
        let asked = Asked::new(name, settings)?;
        runtime()?.block_on(asked.prepare(wanted))
    };
    let snapshot = name.snapshot(&settings.cache).filter(|_| is_complete(name, wanted, &settings.cache));
    let Some(snapshot) = snapshot else { return ask() };
    let mut cached = Prepared {
        path: path_in(&snapshot, name),
        missing: Vec::new(),
        note: None,
        commit: commit_of(&snapshot),
        moves: false,
    };
    if !has_variants_alone(name, wanted, &settings.cache) {
        return Ok(cached);
    }
    // Somebody fetched the smaller ones; whoever names no variant means the others, if there are any.
    match ask() {
        Err(Error::Offline { .. } | Error::Unreachable { .. }) => {
            let why = "of weights the cache has a variant alone, and the hub cannot be asked for those without one";
            cached.note = Some(format!("`{name}`: {why}"));
            Ok(cached)
        }
        asked => asked,
    }
}

/// The same at the commit that `other`, a name of the same repository and revision, has moved to.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_beside(name: &HubName, wanted: &Wanted, other: &Prepared, settings: &Settings) -> Result<Prepared> {
    let asked = Asked::new(name, settings)?;
    runtime()?.block_on(asked.prepare_at(&other.commit, wanted))
}

/// Fetches what is missing, and gives back the file or folder that the name stands for.
///
/// # Errors
/// Where it does not come, is not what the hub says that it is, or there is no room for it. What has come is kept.
pub fn fetch(name: &HubName, prepared: &Prepared, settings: &Settings, progress: &dyn Progress) -> Result<PathBuf> {
    if prepared.missing.is_empty() {
        return Ok(prepared.path.clone());
    }
    let asked = Asked::new(name, settings)?;
    asked.check_room(&prepared.missing)?;
    progress.begin(prepared.missing.len(), prepared.missing_bytes());
    runtime()?.block_on(asked.fetch(&prepared.commit, &prepared.missing, progress))?;
    asked.repository.set_reference(&name.revision, &prepared.commit)?;
    Ok(prepared.path.clone())
}

/// The commit that a snapshot's folder is called by.
fn commit_of(snapshot: &Path) -> String {
    snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Error::Setup(error.to_string()))
}

fn path_in(snapshot: &Path, name: &HubName) -> PathBuf {
    name.path.as_ref().map_or_else(|| snapshot.to_owned(), |path| snapshot.join(path))
}

/// A name, and the hub that it is asked of.
struct Asked<'a> {
    name: &'a HubName,
    spoken: String,
    settings: &'a Settings,
    client: Client,
    repository: Repository,
}

impl<'a> Asked<'a> {
    fn new(name: &'a HubName, settings: &'a Settings) -> Result<Asked<'a>> {
        let spoken = name.to_string();
        if settings.offline {
            let (repository, cache) = (name.repository.clone(), settings.cache.clone());
            return Err(Error::Offline { name: spoken, repository, cache });
        }
        let repository = Repository::new(&settings.cache, name);
        Ok(Asked { name, spoken, settings, client: Client::new(settings)?, repository })
    }

    /// At the commit that is in the cache, or where that has not what is wanted, or is no more, at what the revision is now.
    async fn prepare(&self, wanted: &Wanted) -> Result<Prepared> {
        if let Some(commit) = self.cached_commit().filter(|commit| *commit != self.name.revision) {
            match self.prepare_at(&commit, wanted).await {
                Err(Error::NoFile { .. } | Error::NoRevision { .. } | Error::NoRepository { .. }) => {}
                prepared => return prepared,
            }
        }
        self.prepare_at(&self.name.revision, wanted).await
    }

    /// The commit that the revision is in the cache, with files of it.
    fn cached_commit(&self) -> Option<String> {
        let snapshot = self.name.snapshot(&self.settings.cache)?;
        Some(commit_of(&snapshot)).filter(|commit| is_commit(commit))
    }

    async fn prepare_at(&self, revision: &str, wanted: &Wanted) -> Result<Prepared> {
        let (commit, names) = self.list(revision).await?;
        let moves = self.cached_commit().is_some_and(|cached| cached != commit);
        let snapshot = self.repository.snapshot(&commit);
        let selection = Selection::new(self.name, wanted, &names).map_err(|(file, hint)| Error::NoFile {
            name: self.spoken.clone(),
            file,
            hint,
        })?;
        if let Some(index) = selection.index() {
            self.fetch_small(&commit, vec![index]).await?;
        }
        self.fetch_small(&commit, selection.small(&names, &snapshot)).await?;
        let weights = match selection.has_weights() {
            true => selection.weights(&names, &snapshot).map_err(|error| self.senseless(error.to_string()))?,
            false => Vec::new(),
        };
        if let Some((file, hint)) = selection.lacks(&names, &snapshot) {
            return Err(Error::NoFile { name: self.spoken.clone(), file, hint: Some(hint) });
        }
        let missing = self.facts(&commit, weights).await?;
        std::fs::create_dir_all(&snapshot).map_err(Error::io(&snapshot))?;
        // What is complete at the commit that is here stays so until the new one is, but for a folder that this commit has none of:
        // that is looked at before its weights come.
        if missing.is_empty() || !moves || !selection.is_file() {
            self.repository.set_reference(&self.name.revision, &commit)?;
        }
        Ok(Prepared { path: path_in(&snapshot, self.name), missing, note: None, commit, moves })
    }

    /// The commit that a revision is, and the names of its files.
    async fn list(&self, revision: &str) -> Result<(String, Names)> {
        let revision = ["revision", revision];
        let parts = ["api", "models"].into_iter().chain(self.name.repository.split('/')).chain(revision);
        let url = self.client.address(parts);
        let mut tries = Tries::new(self.settings);
        let text = loop {
            match self.client.text(url.clone()).await {
                Ok(text) => break text,
                Err(failure) => {
                    let again = tries.again(failure, 0).await;
                    again.map_err(|failure| self.error("the list of its files", failure))?;
                }
            }
        };
        let no_list = || self.senseless("answers with something else than a list of files".to_owned());
        let list: Json = serde_json::from_slice(&text).map_err(|_| no_list())?;
        let commit = list["sha"].as_str().filter(|commit| is_commit(commit)).ok_or_else(no_list)?;
        let files = list["siblings"].as_array().ok_or_else(no_list)?;
        let names = files.iter().filter_map(|file| file["rfilename"].as_str().map(str::to_owned));
        Ok((commit.to_owned(), Names::new(names)))
    }

    /// What the hub says of those files that are not here.
    async fn facts(&self, commit: &str, mut names: Vec<String>) -> Result<Vec<RemoteFile>> {
        let snapshot = self.repository.snapshot(commit);
        names.retain(|name| !snapshot.join(name).is_file());
        let asking = names.into_iter().map(|name| self.facts_of(commit, name));
        stream::iter(asking).buffered(ASKED_AT_ONCE).try_collect().await
    }

    async fn facts_of(&self, commit: &str, name: String) -> Result<RemoteFile> {
        let url = self.client.address(address_of(&self.name.repository, commit, &name));
        let mut tries = Tries::new(self.settings);
        let facts = loop {
            match self.client.facts(url.clone()).await {
                Ok(facts) => break facts,
                Err(failure) => {
                    let again = tries.again(failure, 0).await;
                    again.map_err(|failure| self.error(&format!("`{name}`"), failure))?;
                }
            }
        };
        if facts.commit.is_some_and(|other| other != commit) {
            return Err(self.senseless(format!("answers with `{name}` of another commit than `{commit}`")));
        }
        match (facts.hash, facts.size) {
            (Some(hash), Some(size)) => Ok(RemoteFile { name, size, hash }),
            _ => Err(self.senseless(format!("does not say what length and hash `{name}` has"))),
        }
    }

    async fn fetch_small(&self, commit: &str, names: Vec<String>) -> Result<()> {
        let files = self.facts(commit, names).await?;
        if let Some(file) = files.iter().find(|file| file.size > LARGEST_SMALL) {
            return Err(self.senseless(format!("has a `{}` of {} bytes", file.name, file.size)));
        }
        self.check_room(&files)?;
        self.fetch(commit, &files, &Silent).await
    }

    async fn fetch(&self, commit: &str, files: &[RemoteFile], progress: &dyn Progress) -> Result<()> {
        let transfer = Transfer {
            client: &self.client,
            settings: self.settings,
            repository: &self.repository,
            id: &self.name.repository,
            commit,
            name: &self.spoken,
            tally: Tally::new(progress),
        };
        let transfer = &transfer;
        let fetching = files.iter().map(async |file| {
            let fetched = transfer.fetch(file).await;
            fetched.map_err(|failure| self.error(&file.in_words(), failure))
        });
        // With the first error the others end: they would run into the same, and each is continued later.
        stream::iter(fetching).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Refuses what the disk has no room for before hours are spent on it.
    fn check_room(&self, files: &[RemoteFile]) -> Result<()> {
        let left = |file: &RemoteFile| {
            let length = |path: PathBuf| std::fs::metadata(path).map_or(0, |there| there.len());
            let here = length(self.repository.blob(&file.hash)).max(length(self.repository.incomplete(&file.hash)));
            file.size.saturating_sub(here)
        };
        let needed: u64 = files.iter().map(left).sum();
        match free_space(&self.settings.cache) {
            Some(free) if needed > 0 && needed.saturating_add(SPARE) > free => {
                Err(Error::NoRoom { name: self.spoken.clone(), needed, free, cache: self.settings.cache.clone() })
            }
            _ => Ok(()),
        }
    }

    fn senseless(&self, reason: String) -> Error {
        Error::Senseless { name: self.spoken.clone(), server: self.client.server(), reason }
    }

    /// What a failure means for the name. The hub's own words for it are more exact than the numbers.
    fn error(&self, file: &str, failure: Failure) -> Error {
        let name = self.spoken.clone();
        let (status, code) = match failure {
            Failure::Final(error) => return error,
            Failure::Passing(reason) | Failure::Busy(reason, _) => {
                return Error::Unreachable {
                    name,
                    file: file.to_owned(),
                    server: self.client.server(),
                    reason,
                    here: 0,
                };
            }
            Failure::Senseless(reason) => return self.senseless(reason),
            Failure::Refused(status, code) => (status, code.unwrap_or_default()),
        };
        let asked_with_token = self.client.has_token();
        let repository = self.name.repository.clone();
        match (code.as_str(), status) {
            ("RevisionNotFound", _) => Error::NoRevision { name, revision: self.name.revision.clone() },
            ("EntryNotFound", _) => Error::NoFile { name, file: file.to_owned(), hint: None },
            ("GatedRepo", _) | (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) if code != "RepoNotFound" => {
                let address = format!("{}/{repository}", self.client.server());
                Error::Refused { name, address, is_gated: code == "GatedRepo", asked_with_token }
            }
            ("RepoNotFound", _) | (_, StatusCode::NOT_FOUND) => {
                Error::NoRepository { name, repository, server: self.client.server(), asked_with_token }
            }
            (_, status) => self.senseless(format!("answers {} when it is asked for {file}", status.as_u16())),
        }
    }
}

/// For what takes a moment.
struct Silent;

impl Progress for Silent {
    fn begin(&self, _: usize, _: u64) {}
    fn at(&self, _: u64) {}
    fn note(&self, _: &str) {}
}
