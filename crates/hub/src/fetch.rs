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
use crate::selection::{Names, Selection, Wanted, is_complete};
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
    commit: String,
}

impl Prepared {
    /// Bytes of all that is missing.
    pub fn missing_bytes(&self) -> u64 {
        self.missing.iter().map(|file| file.size).sum()
    }
}

/// Looks a name up and fetches what describes it: configurations, tokenizers and lists of shards, a few megabytes. Where everything
/// that is wanted is in the cache, the hub is not asked.
///
/// # Errors
/// Where there is no such thing, it may not be read or does not come.
pub fn prepare(name: &HubName, wanted: &Wanted, settings: &Settings) -> Result<Prepared> {
    if is_complete(name, wanted, &settings.cache)
        && let Some(snapshot) = name.snapshot(&settings.cache)
    {
        return Ok(Prepared { path: path_in(&snapshot, name), missing: Vec::new(), commit: String::new() });
    }
    let asked = Asked::new(name, settings)?;
    runtime()?.block_on(asked.prepare(wanted))
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
    Ok(prepared.path.clone())
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

    async fn prepare(&self, wanted: &Wanted) -> Result<Prepared> {
        let (commit, names) = self.list().await?;
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
        let missing = self.facts(&commit, weights).await?;
        std::fs::create_dir_all(&snapshot).map_err(Error::io(&snapshot))?;
        self.repository.set_reference(&self.name.revision, &commit)?;
        Ok(Prepared { path: path_in(&snapshot, self.name), missing, commit })
    }

    /// The commit that the revision is, and the names of its files.
    async fn list(&self) -> Result<(String, Names)> {
        let revision = ["revision", &self.name.revision];
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
        let is_commit = |commit: &&str| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        let commit = list["sha"].as_str().filter(is_commit).ok_or_else(no_list)?;
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
            Failure::Passing(reason) => {
                return Error::Unreachable {
                    name,
                    file: file.to_owned(),
                    server: self.client.server(),
                    reason,
                    here: 0,
                };
            }
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
