//! Why something of the hub did not come, and what to do about it.

use std::io;
use std::path::PathBuf;

use sdtrain_files::in_words;

/// What every function of this crate that can fail returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something of the hub did not come. None of them holds a token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not in the cache, and the hub may not be asked.
    #[error("`{name}` is not in the Hugging Face cache `{}`, or not all of it, and `HF_HUB_OFFLINE` forbids to fetch it", .cache.display())]
    Offline {
        /// As it was asked for.
        name: String,
        /// `ORG/REPO`.
        repository: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The hub, or the way there, is out of order.
    #[error("`{name}`: {file} cannot be fetched from `{server}`: {reason}")]
    Unreachable {
        /// As it was asked for.
        name: String,
        /// Which file, in a message's words.
        file: String,
        /// The hub's address.
        server: String,
        /// What went wrong.
        reason: String,
        /// Bytes of the file that are here.
        here: u64,
    },
    /// The hub knows no such repository, or does not tell who asks.
    #[error("`{name}`: `{server}` has no repository `{repository}`{}", if *.asked_with_token { "" } else { ", or does not show it to everybody" })]
    NoRepository {
        /// As it was asked for.
        name: String,
        /// `ORG/REPO`.
        repository: String,
        /// The hub's address.
        server: String,
        /// Whether a token was sent.
        asked_with_token: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("`{name}`: the repository has no revision `{revision}`")]
    NoRevision {
        /// As it was asked for.
        name: String,
        /// What was asked for.
        revision: String,
    },
    /// The revision has no such file.
    #[error("`{name}`: the repository has no {file}")]
    NoFile {
        /// As it was asked for.
        name: String,
        /// Which file, in a message's words.
        file: String,
        /// What could have been meant.
        hint: Option<String>,
    },
    /// Only those may read it whom its authors allow to.
    #[error("`{name}` may not be read {}", if *.asked_with_token { "with this token" } else { "without a token" })]
    Refused {
        /// As it was asked for.
        name: String,
        /// The repository's address.
        address: String,
        /// Whether its authors ask for agreement to a licence.
        is_gated: bool,
        /// Whether a token was sent.
        asked_with_token: bool,
    },
    /// The hub says what cannot be.
    #[error("`{name}`: `{server}` {reason}")]
    Senseless {
        /// As it was asked for.
        name: String,
        /// The hub's address.
        server: String,
        /// What it says.
        reason: String,
    },
    /// A file is not what the hub says that it is. It has been removed.
    #[error("`{name}`: {file} came with the hash {found}, and the hub states {expected}; it was removed")]
    WrongHash {
        /// As it was asked for.
        name: String,
        /// Which file, in a message's words.
        file: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The disk of the cache is too small.
    #[error("`{name}`: {} are to be fetched, and the disk of `{}` has {} left", in_words(*.needed), .cache.display(), in_words(*.free))]
    NoRoom {
        /// As it was asked for.
        name: String,
        /// Bytes that are missing here.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error("cannot keep `{}`: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program is not set up to ask.
    #[error("the hub cannot be asked: {0}")]
    Setup(String),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }

    /// Whether a disk is the reason.
    pub fn is_storage(&self) -> bool {
        matches!(self, Error::NoRoom { .. } | Error::Io { .. })
    }

    /// Whether what was asked for is the reason: another name, another token or another setting leads on.
    pub fn is_request(&self) -> bool {
        use Error::{NoFile, NoRepository, NoRevision, Offline, Refused, Setup};
        matches!(
            self,
            Offline { .. } | NoRepository { .. } | NoRevision { .. } | NoFile { .. } | Refused { .. } | Setup(_)
        )
    }

    /// The way out.
    pub fn hint(&self) -> Option<String> {
        const SET_TOKEN: &str = "set `HF_TOKEN` to a token of an account that may read it";
        Some(match self {
            Error::Offline { repository, .. } => {
                format!("unset `HF_HUB_OFFLINE`, or fill the cache on a machine with a network by `hf download {repository}`")
            }
            Error::Unreachable { here: 0, .. } => {
                "is the network there? `HTTPS_PROXY` names a proxy, `HF_ENDPOINT` a mirror; the same command tries again".to_owned()
            }
            Error::Unreachable { here, .. } => {
                format!("the same command goes on behind the {} that are here", in_words(*here))
            }
            Error::NoRepository { asked_with_token: true, .. } => {
                "look at the name; if it is right, the token's account may not read it".to_owned()
            }
            Error::NoRepository { .. } => format!("look at the name; if it is right, {SET_TOKEN}"),
            Error::NoRevision { .. } => "behind `@` stands a branch, a tag or a commit; without it, `main`".to_owned(),
            Error::NoFile { hint, .. } => return hint.clone(),
            Error::Refused { address, is_gated: true, asked_with_token, .. } => match asked_with_token {
                true => format!("accept its licence at {address} with the token's account, and let the token read gated repositories"),
                false => format!("accept its licence at {address}, then set `HF_TOKEN` to a token of that account"),
            },
            Error::Refused { asked_with_token: true, .. } => {
                "the token of `HF_TOKEN`, or of `hf auth login`, is not valid any more or may not read it: set another".to_owned()
            }
            Error::Refused { .. } => SET_TOKEN.to_owned(),
            Error::Senseless { .. } => "look at `HF_ENDPOINT`: is this a Hugging Face hub?".to_owned(),
            Error::WrongHash { .. } => {
                "the same command fetches it anew; if it happens again, a proxy or mirror on the way changes files".to_owned()
            }
            Error::NoRoom { .. } => "make room there, or set `HF_HUB_CACHE` to a folder on another disk".to_owned(),
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => {
                    "make room there, or set `HF_HUB_CACHE` to a folder on another disk; what has come is kept".to_owned()
                }
                _ => "set `HF_HUB_CACHE` to a folder that can be written".to_owned(),
            },
            Error::Setup(_) => "look at `HF_ENDPOINT` and `HF_TOKEN`".to_owned(),
        })
    }
}
