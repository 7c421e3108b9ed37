//! Finding the newest checkpoint that is whole, and clearing away what an interrupted writer left.

use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::manifest::{LARGEST_MANIFEST, MANIFEST_NAME, is_plain_name};
use crate::publish::{LATEST_NAME, REPLACED, TEMPORARY, TRASH, hash, latest_content, write_latest};
use crate::seeded_bugs::{Bug, seeded};
use crate::vfs::{RealVfs, Vfs, read_up_to, remove_all};
use crate::{Error, Manifest, Result};

/// Bytes that a name and the end of its line have at most.
const LARGEST_NAME: u64 = 256;

/// What the names of checkpoints begin with, as runs give them.
const CHECKPOINT: &str = "step-";

/// All checkpoints of a folder.
#[derive(Debug, Default)]
pub struct Survey {
    /// The newest one that is whole: its folder, its manifest.
    pub newest: Option<(PathBuf, Manifest)>,
    /// Newer ones that are not whole, newest first, with the reason. Nothing deletes them.
    pub rejected: Vec<(PathBuf, String)>,
}

/// The newest checkpoint whose manifest, lengths and hashes are right: [`recover`] without the reasons of those passed over.
pub fn latest_valid(parent: &Path) -> Result<Option<(PathBuf, Manifest)>> {
    latest_valid_with(&RealVfs, parent)
}

/// [`latest_valid`] on any file system.
pub fn latest_valid_with(vfs: &dyn Vfs, parent: &Path) -> Result<Option<(PathBuf, Manifest)>> {
    Ok(recover_with(vfs, parent)?.newest)
}

/// Removes the left-overs of an interrupted writer, looks for the newest whole checkpoint and makes `latest` name it. The caller
/// holds the run's [`FolderLock`](crate::FolderLock); others use [`survey`].
///
/// A folder without checkpoints is no error; [`Error::NoneWhole`] where there are some and each is damaged, and [`Error::Gone`] where
/// `latest` names one and there is none, since a run that then began anew would throw away what could be mended or put back.
pub fn recover(parent: &Path) -> Result<Survey> {
    recover_with(&RealVfs, parent)
}

/// [`recover`] on any file system.
pub fn recover_with(vfs: &dyn Vfs, parent: &Path) -> Result<Survey> {
    if !vfs.exists(parent).context("look at", parent)? {
        return Ok(Survey::default());
    }
    if !seeded(Bug::KeepLeftovers) {
        clear_leftovers(vfs, parent)?;
    }
    let survey = survey(vfs, parent)?;
    if let Some((newest, _)) = &survey.newest {
        correct_latest(vfs, parent, &newest.file_name().unwrap_or_default().to_string_lossy())?;
    }
    match (&survey.newest, survey.rejected.first()) {
        (None, Some((newest, reason))) if !seeded(Bug::FreshAfterDamage) => Err(Error::NoneWhole {
            folder: parent.to_owned(),
            count: survey.rejected.len(),
            reason: format!("`{}`: {reason}", newest.display()),
        }),
        // `latest` is written when there is one, and the newest is never deleted.
        (None, None) => match named_by_latest(vfs, parent) {
            Some(name) if !seeded(Bug::FreshAfterDamage) => Err(Error::Gone { folder: parent.to_owned(), name }),
            _ => Ok(survey),
        },
        _ => Ok(survey),
    }
}

/// The checkpoint that `latest` names, where it can be read.
fn named_by_latest(vfs: &dyn Vfs, parent: &Path) -> Option<String> {
    let named = read_up_to(vfs, &parent.join(LATEST_NAME), LARGEST_NAME).ok()?;
    let name = String::from_utf8(named).ok()?.trim().to_owned();
    is_plain_name(&name).then_some(name)
}

/// Makes `latest` name the newest whole checkpoint: whoever published that one may have been killed in between, or it is what a
/// run falls back to, and no further one may ever be saved.
fn correct_latest(vfs: &dyn Vfs, parent: &Path, newest: &str) -> Result<()> {
    // One that cannot be read is written anew, too.
    let named = read_up_to(vfs, &parent.join(LATEST_NAME), LARGEST_NAME);
    match named.is_ok_and(|named| named == latest_content(newest)) || seeded(Bug::LatestBehind) {
        true => Ok(()),
        false => write_latest(vfs, parent, newest),
    }
}

/// Looks at the checkpoints of a folder from the newest on, until one is whole; changes nothing.
///
/// A read that fails is tried once more, as the handles of a network disk go stale. If it fails again, that is an error: the
/// checkpoint may well be whole, and an older one must not take its place because of, say, too many open files.
pub fn survey(vfs: &dyn Vfs, parent: &Path) -> Result<Survey> {
    let mut survey = Survey::default();
    let mut lost = None;
    for (folder, manifest) in candidates(vfs, parent)? {
        let checked = manifest.and_then(|manifest| {
            again(|| check_files(vfs, &folder, &manifest))?;
            Ok(manifest)
        });
        match checked {
            Ok(manifest) => {
                survey.newest = Some((folder, manifest));
                break;
            }
            Err(Error::Invalid { reason, .. }) => survey.rejected.push((folder, reason)),
            Err(other) if is_lost(&other) || seeded(Bug::ReadErrorIsDamage) => {
                survey.rejected.push((folder, other.to_string()));
                lost = lost.or(Some(other));
            }
            Err(other) => return Err(other),
        }
    }
    match lost {
        // With nothing to fall back to, it is the disk that ends the run.
        Some(lost) if survey.newest.is_none() && !seeded(Bug::ReadErrorIsDamage) => Err(lost),
        _ => Ok(survey),
    }
}

/// Tries a read once more if the disk refuses it.
fn again<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    match read() {
        Err(Error::Storage { .. }) if !seeded(Bug::ReadErrorIsDamage) => read(),
        read => read,
    }
}

/// Whether the disk says that it has lost the content, so that trying later will not help.
fn is_lost(error: &Error) -> bool {
    // Linux: I/O error, and what btrfs and XFS say of a block with a wrong checksum.
    const LOST: [i32; 3] = [5, 74, 117];
    error.storage_error().and_then(std::io::Error::raw_os_error).is_some_and(|code| LOST.contains(&code))
}

/// Checks one checkpoint: its manifest, every file's length, every file's hash.
pub fn verify(folder: &Path) -> Result<Manifest> {
    verify_with(&RealVfs, folder)
}

/// [`verify`] on any file system.
pub fn verify_with(vfs: &dyn Vfs, folder: &Path) -> Result<Manifest> {
    let manifest = read_manifest(vfs, folder)?;
    check_files(vfs, folder, &manifest)?;
    Ok(manifest)
}

/// Every folder that may be a checkpoint with its manifest, the highest step first; those without a readable one come first of
/// all, as nobody knows how new they are.
pub(crate) fn candidates(vfs: &dyn Vfs, parent: &Path) -> Result<Vec<(PathBuf, Result<Manifest>)>> {
    let mut candidates = Vec::new();
    for entry in vfs.list(parent).context("list", parent)? {
        let folder = parent.join(&entry.name);
        if entry.is_folder && !entry.name.starts_with('.') && is_checkpoint(vfs, &folder, &entry.name)? {
            let manifest = again(|| read_manifest(vfs, &folder));
            candidates.push((folder, manifest));
        }
    }
    let step = |manifest: &Result<Manifest>| manifest.as_ref().map_or(u64::MAX, |manifest| manifest.info.step);
    candidates.sort_by(|a, b| (step(&b.1), &b.0).cmp(&(step(&a.1), &a.0)));
    if seeded(Bug::NewestByName) {
        candidates.sort_by(|a, b| b.0.cmp(&a.0));
    }
    Ok(candidates)
}

/// Whether a folder is a checkpoint, whole or not: by its name or, where somebody gave it another, by its manifest. Others, as a disk's
/// `lost+found`, are nobody's business.
fn is_checkpoint(vfs: &dyn Vfs, folder: &Path, name: &str) -> Result<bool> {
    Ok(name.starts_with(CHECKPOINT) || vfs.exists(&folder.join(MANIFEST_NAME)).context("look at", folder)?)
}

fn read_manifest(vfs: &dyn Vfs, folder: &Path) -> Result<Manifest> {
    let path = folder.join(MANIFEST_NAME);
    let json = read_up_to(vfs, &path, LARGEST_MANIFEST).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::invalid(folder, format!("it has no {MANIFEST_NAME}")),
        std::io::ErrorKind::NotADirectory | std::io::ErrorKind::FileTooLarge => {
            Error::invalid(folder, format!("its {MANIFEST_NAME} cannot be read: {e}"))
        }
        _ => Error::storage("read", &path, e),
    })?;
    Manifest::from_json(&json, folder)
}

fn check_files(vfs: &dyn Vfs, folder: &Path, manifest: &Manifest) -> Result<()> {
    // All lengths first: a truncated file is then found without reading gigabytes.
    for file in &manifest.files {
        let length = vfs.length(&folder.join(&file.name)).map_err(|e| unreadable(folder, &file.name, e))?;
        if length != file.length && !(seeded(Bug::ShortFile) && length < file.length) {
            let reason = format!("`{}` has {length} bytes instead of {}", file.name, file.length);
            return Err(Error::invalid(folder, reason));
        }
    }
    for file in &manifest.files {
        if seeded(Bug::AnyContent) {
            continue;
        }
        let (length, blake3) = hash(vfs, &folder.join(&file.name)).map_err(|e| unreadable(folder, &file.name, e))?;
        if blake3 != file.blake3 && !(seeded(Bug::ShortFile) && length < file.length) {
            return Err(Error::invalid(folder, format!("the content of `{}` is not what was written", file.name)));
        }
    }
    Ok(())
}

/// A file that is not there makes a checkpoint invalid; one that cannot be read just now does not.
fn unreadable(folder: &Path, name: &str, error: std::io::Error) -> Error {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    match error.kind() {
        NotFound | IsADirectory | NotADirectory => Error::invalid(folder, format!("`{name}` cannot be read: {error}")),
        _ => Error::storage("read", &folder.join(name), error),
    }
}

/// Removes what an interrupted writer left, and puts back a folder that was about to be replaced and was not.
fn clear_leftovers(vfs: &dyn Vfs, parent: &Path) -> Result<()> {
    let mut left = vfs.list(parent).context("list", parent)?;
    left.retain(|entry| [REPLACED, TEMPORARY, TRASH].iter().any(|prefix| entry.name.starts_with(prefix)));
    if !left.is_empty() && !seeded(Bug::ClearUnsynced) {
        // Whoever gave them these names may have been killed before that was forced to disk; a power cut would then bring the old
        // names back, on folders that are half removed.
        vfs.sync_folder(parent).context("force to disk", parent)?;
    }
    for entry in left {
        let path = parent.join(&entry.name);
        if let Some(name) = entry.name.strip_prefix(REPLACED) {
            let target = parent.join(name);
            // Only what certainly is no checkpoint gives way: a read that fails must not cost the newer of the two.
            let is_invalid = match verify_with(vfs, &target) {
                Ok(_) => false,
                Err(Error::Invalid { .. }) => true,
                Err(_) => continue,
            };
            let is_needed = is_invalid
                && !seeded(Bug::ForgetReplaced)
                && match verify_with(vfs, &path) {
                    Ok(_) => true,
                    Err(Error::Invalid { .. }) => false,
                    Err(_) => continue,
                };
            if is_needed {
                if vfs.exists(&target).context("look at", &target)? {
                    remove_all(vfs, &target).context("remove", &target)?;
                }
                vfs.rename(&path, &target).context("rename", &path)?;
                vfs.sync_folder(parent).context("force to disk", parent)?;
                continue;
            }
        }
        // Left-overs only take room; a folder that cannot be removed must not keep a run from going on.
        let _ = if entry.is_folder { remove_all(vfs, &path) } else { vfs.remove_file(&path) };
    }
    Ok(())
}
