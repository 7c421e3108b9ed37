//! Finding the newest checkpoint that is whole, and clearing away what an interrupted writer left.

use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::manifest::{LARGEST_MANIFEST, MANIFEST_NAME};
use crate::publish::{REPLACED, TEMPORARY, TRASH, hash};
use crate::vfs::{RealVfs, Vfs, read_up_to, remove_all};
use crate::{Error, Manifest, Result};

/// All checkpoints of a folder.
#[derive(Debug, Default)]
pub struct Survey {
    /// The newest one that is whole: its folder, its manifest.
    pub newest: Option<(PathBuf, Manifest)>,
    /// Newer ones that are not whole, newest first, with the reason. Nothing deletes them.
    pub rejected: Vec<(PathBuf, String)>,
}

/// The newest checkpoint whose manifest, lengths and hashes are right. Left-overs of an interrupted writer are removed, so the
/// caller holds the run's [`FolderLock`](crate::FolderLock); others use [`survey`].
pub fn latest_valid(parent: &Path) -> Result<Option<(PathBuf, Manifest)>> {
    latest_valid_with(&RealVfs, parent)
}

/// [`latest_valid`] on any file system.
pub fn latest_valid_with(vfs: &dyn Vfs, parent: &Path) -> Result<Option<(PathBuf, Manifest)>> {
    if !vfs.exists(parent).context("look at", parent)? {
        return Ok(None);
    }
    clear_leftovers(vfs, parent)?;
    Ok(survey(vfs, parent)?.newest)
}

/// Looks at the checkpoints of a folder from the newest on, until one is whole; changes nothing.
pub fn survey(vfs: &dyn Vfs, parent: &Path) -> Result<Survey> {
    let mut survey = Survey::default();
    for (folder, manifest) in candidates(vfs, parent)? {
        match manifest.and_then(|manifest| check_files(vfs, &folder, &manifest).map(|()| manifest)) {
            Ok(manifest) => {
                survey.newest = Some((folder, manifest));
                break;
            }
            Err(Error::Invalid { reason, .. }) => survey.rejected.push((folder, reason)),
            Err(other) => survey.rejected.push((folder, other.to_string())),
        }
    }
    Ok(survey)
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
        if entry.is_folder && !entry.name.starts_with('.') {
            let folder = parent.join(&entry.name);
            let manifest = read_manifest(vfs, &folder);
            candidates.push((folder, manifest));
        }
    }
    let step = |manifest: &Result<Manifest>| manifest.as_ref().map_or(u64::MAX, |manifest| manifest.info.step);
    candidates.sort_by(|a, b| (step(&b.1), &b.0).cmp(&(step(&a.1), &a.0)));
    Ok(candidates)
}

fn read_manifest(vfs: &dyn Vfs, folder: &Path) -> Result<Manifest> {
    let path = folder.join(MANIFEST_NAME);
    let json = read_up_to(vfs, &path, LARGEST_MANIFEST).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::invalid(folder, format!("it has no {MANIFEST_NAME}")),
        _ => Error::storage("read", &path, e),
    })?;
    Manifest::from_json(&json, folder)
}

fn check_files(vfs: &dyn Vfs, folder: &Path, manifest: &Manifest) -> Result<()> {
    // All lengths first: a truncated file is then found without reading gigabytes.
    for file in &manifest.files {
        let length = vfs.length(&folder.join(&file.name)).map_err(|e| missing(folder, &file.name, &e))?;
        if length != file.length {
            let reason = format!("`{}` has {length} bytes instead of {}", file.name, file.length);
            return Err(Error::invalid(folder, reason));
        }
    }
    for file in &manifest.files {
        let (_, blake3) = hash(vfs, &folder.join(&file.name)).map_err(|e| missing(folder, &file.name, &e))?;
        if blake3 != file.blake3 {
            return Err(Error::invalid(folder, format!("the content of `{}` is not what was written", file.name)));
        }
    }
    Ok(())
}

fn missing(folder: &Path, name: &str, error: &std::io::Error) -> Error {
    Error::invalid(folder, format!("`{name}` cannot be read: {error}"))
}

/// Removes what an interrupted writer left, and puts back a folder that was about to be replaced and was not.
fn clear_leftovers(vfs: &dyn Vfs, parent: &Path) -> Result<()> {
    for entry in vfs.list(parent).context("list", parent)? {
        let path = parent.join(&entry.name);
        if let Some(name) = entry.name.strip_prefix(REPLACED) {
            let target = parent.join(name);
            let is_needed = verify_with(vfs, &target).is_err() && verify_with(vfs, &path).is_ok();
            if is_needed {
                if vfs.exists(&target).context("look at", &target)? {
                    remove_all(vfs, &target).context("remove", &target)?;
                }
                vfs.rename(&path, &target).context("rename", &path)?;
                vfs.sync_folder(parent).context("force to disk", parent)?;
                continue;
            }
        }
        if [REPLACED, TEMPORARY, TRASH].iter().any(|prefix| entry.name.starts_with(prefix)) {
            // Left-overs only take room; a folder that cannot be removed must not keep a run from going on.
            let _ = if entry.is_folder { remove_all(vfs, &path) } else { vfs.remove_file(&path) };
        }
    }
    Ok(())
}
