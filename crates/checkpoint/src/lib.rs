//! The commit protocol of checkpoints, and what may be believed after a crash.
//!
//! ```text
//! checkpoints/
//!   .tmp-step-000250/       1 files, each hashed while written and forced to disk
//!                           2 MANIFEST.json with every name, length and hash; forced to disk
//!                           3 the folder itself forced to disk
//!   step-000250/            4 renamed to its name; checkpoints/ forced to disk: from here on it exists
//!   latest                  5 the newest name, for people and scripts; nothing here trusts it, and the next start corrects it
//!   .trash-step-000150/     6 what retention deletes is renamed first
//! ```
//!
//! A reader takes the folder with the highest step whose manifest, lengths and hashes are right. A name that begins with a dot is
//! never read as a checkpoint; the next writer removes it.
#![doc = include_str!("../README.md")]

mod error;
mod lock;
mod manifest;
mod publish;
mod recover;
mod retention;
mod seeded_bugs;
pub mod vfs;

pub use error::{Error, causes, storage_error};
pub use lock::FolderLock;
pub use manifest::{FORMAT_VERSION, FileEntry, MANIFEST_NAME, Manifest, ManifestInfo};
pub use publish::{
    Fill, LATEST_NAME, Publication, PublicationFile, probe, probe_ahead, publish, publish_with, replace_file,
    write_latest,
};
pub use recover::{Survey, latest_valid, latest_valid_with, recover, recover_with, survey, verify, verify_with};
pub use retention::{Pruned, prune, prune_with, retention};
#[cfg(feature = "seeded-bugs")]
pub use seeded_bugs::{Bug, chosen as chosen_bug};

/// What this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
