//! Which checkpoints are deleted: the decision, which touches no disk, and the deed.

use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::publish::TRASH;
use crate::recover::candidates;
use crate::seeded_bugs::{Bug, seeded};
use crate::vfs::{RealVfs, Vfs, remove_all};
use crate::{Manifest, Result};

/// The steps whose checkpoints are deleted so that the newest `keep_last` stay, oldest first; at least one always stays.
pub fn retention(steps: &[u64], keep_last: usize) -> Vec<u64> {
    let mut steps = steps.to_vec();
    steps.sort_unstable();
    steps.dedup();
    steps.truncate(steps.len().saturating_sub(keep_last.max(1)));
    steps
}

/// How many more checkpoints than lie in `parent` it must have room for at a time, where `kept` of them stay: those that are kept and
/// not there yet, and the one that is written before the oldest goes. There is always one more. Changes nothing; a folder that cannot
/// be read has none.
pub fn still_to_come(parent: &Path, kept: usize) -> u64 {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let there = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("step-")).count();
    (kept + 1).saturating_sub(there).max(1) as u64
}

/// What pruning did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Checkpoints that are gone.
    pub removed: Vec<PathBuf>,
    /// Checkpoints that should be gone and are not, with the reason. Not an error: the next start tries again.
    pub failed: Vec<(PathBuf, String)>,
}

/// Deletes the checkpoints before step `newest`, which was just published, but for so many that `keep_last` are left with it.
///
/// Those of later steps neither count nor go: the run passed over them, as they are damaged, or came back to before them.
/// The caller holds the run's [`FolderLock`](crate::FolderLock).
pub fn prune(parent: &Path, newest: u64, keep_last: usize) -> Result<Pruned> {
    prune_with(&RealVfs, parent, newest, keep_last)
}

/// [`prune`] on any file system.
pub fn prune_with(vfs: &dyn Vfs, parent: &Path, newest: u64, keep_last: usize) -> Result<Pruned> {
    // Only what has a manifest of ours is counted, and only that is deleted; one whose files are visibly incomplete does not
    // count towards those that are kept.
    let mut ours: Vec<(PathBuf, Manifest)> = Vec::new();
    for (folder, manifest) in candidates(vfs, parent)? {
        if let Ok(manifest) = manifest
            && is_complete(vfs, &folder, &manifest)
            && (manifest.info.step <= newest || seeded(Bug::CountDamaged))
        {
            ours.push((folder, manifest));
        }
    }
    let steps: Vec<u64> = ours.iter().map(|(_, manifest)| manifest.info.step).collect();
    let mut doomed = retention(&steps, keep_last);
    if seeded(Bug::KeepOldest) {
        doomed = steps.iter().copied().take(doomed.len()).collect();
    }
    let mut pruned = Pruned::default();
    for (folder, _) in ours.into_iter().rev().filter(|(_, manifest)| doomed.contains(&manifest.info.step)) {
        match delete(vfs, parent, &folder) {
            Ok(()) => pruned.removed.push(folder),
            Err(error) => pruned.failed.push((folder, error.to_string())),
        }
    }
    Ok(pruned)
}

/// Whether every file is there in its full length.
fn is_complete(vfs: &dyn Vfs, folder: &Path, manifest: &Manifest) -> bool {
    manifest.files.iter().all(|file| vfs.length(&folder.join(&file.name)).is_ok_and(|length| length == file.length))
}

/// Takes the name away first, so that no half-deleted folder is ever seen under it.
fn delete(vfs: &dyn Vfs, parent: &Path, folder: &Path) -> Result<()> {
    if seeded(Bug::DeleteInPlace) {
        return remove_all(vfs, folder).context("remove", folder);
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let trash = parent.join(format!("{TRASH}{name}"));
    if vfs.exists(&trash).context("look at", &trash)? {
        remove_all(vfs, &trash).context("remove", &trash)?;
    }
    vfs.rename(folder, &trash).context("rename", folder)?;
    vfs.sync_folder(parent).context("force to disk", parent)?;
    remove_all(vfs, &trash).context("remove", &trash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_two_checkpoints() {
        assert_eq!(retention(&[300, 100, 400, 200], 2), [100, 200]);
        assert!(retention(&[100, 200], 2).is_empty());
        assert!(retention(&[], 2).is_empty());
    }

    #[test]
    fn checkpoints_that_are_there_need_no_more_room() {
        let folder = tempfile::tempdir().unwrap();
        let parent = folder.path().join("checkpoints");
        assert_eq!(still_to_come(&parent, 2), 3);
        assert_eq!(still_to_come(&parent, 0), 1, "the last step writes one");
        for step in ["step-000001", "step-000002", "step-000003", "step-000004"] {
            std::fs::create_dir_all(parent.join(step)).unwrap();
        }
        assert_eq!(still_to_come(&parent, 2), 1, "there is always one more");
    }

    #[test]
    fn never_deletes_the_only_one() {
        assert!(retention(&[100], 0).is_empty());
        assert_eq!(retention(&[100, 200], 0), [100]);
    }
}
