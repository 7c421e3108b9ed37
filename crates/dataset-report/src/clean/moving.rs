//! The moves of a plan, and the way back.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::manifest::{self, Entry, Manifest};
use super::plan::{Plan, Removal};
use crate::Error;
use crate::inspection::DroppedImage;

/// What `apply` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Images that were moved.
    pub images: usize,
    /// Files that were moved with them.
    pub others: usize,
    /// The manifests that undo it, one for each folder of the data.
    pub manifests: Vec<String>,
    /// Files that stayed, since they could not be moved.
    pub failed: Vec<DroppedImage>,
}

/// What `undo` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Files that were moved back.
    pub files: usize,
    /// Files that were in their place already.
    pub in_place: usize,
    /// Files that could not be moved back.
    pub failed: Vec<DroppedImage>,
}

/// Moves what a plan says, after its manifests are written. A file that cannot be moved stays and is named.
pub fn apply(plan: &Plan) -> Result<Moved, Error> {
    if plan.found > 0 && plan.removals.len() == plan.found {
        return Err(Error::NothingLeft(plan.found));
    }
    let mut by_folder: BTreeMap<(&Path, &Path), Vec<Entry>> = BTreeMap::new();
    for removal in &plan.removals {
        let entries = by_folder.entry((&removal.folder, &removal.to)).or_default();
        let belonging =
            |file: &String| Entry { file: file.clone(), reasons: Vec::new(), with: Some(removal.file.clone()) };
        let reasons = removal.reasons.iter().map(|reason| reason.reason.clone()).collect();
        entries.push(Entry { file: removal.file.clone(), reasons, with: None });
        entries.extend(removal.with.iter().map(belonging));
        for companion in &removal.elsewhere {
            by_folder.entry((&companion.folder, &companion.to)).or_default().push(belonging(&companion.file));
        }
    }
    for (folder, to) in by_folder.keys() {
        check_same_disk(folder, to)?;
    }
    let mut moved = Moved::default();
    for ((folder, to), entries) in &by_folder {
        moved.manifests.push(manifest::write(entries, folder, to)?.to_string_lossy().into_owned());
    }
    for Removal { folder, to, file, with, elsewhere, .. } in &plan.removals {
        // An image that could not be moved keeps its caption.
        if !move_file(folder, to, file, &mut moved.failed) {
            continue;
        }
        moved.images += 1;
        let beside = with.iter().map(|file| (folder, to, file));
        for (folder, to, file) in beside.chain(elsewhere.iter().map(|c| (&c.folder, &c.to, &c.file))) {
            moved.others += usize::from(move_file(folder, to, file, &mut moved.failed));
        }
    }
    Ok(moved)
}

/// Moves everything back that a manifest names. Can be repeated; once everything is back, the manifest is renamed to
/// `….undone`.
pub fn undo(path: &Path) -> Result<Restored, Error> {
    let Manifest { folder, to, entries } = manifest::read(path)?;
    let mut restored = Restored::default();
    for entry in entries.iter().rev() {
        let (from, back) = (to.join(&entry.file), folder.join(&entry.file));
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        match (exists(&from), exists(&back)) {
            (true, _) => restored.files += usize::from(move_file(&to, &folder, &entry.file, &mut restored.failed)),
            (false, true) => restored.in_place += 1,
            (false, false) => {
                let reason = format!("is neither there nor in `{}`", folder.display());
                restored.failed.push(DroppedImage { path: from.to_string_lossy().into_owned(), reason });
            }
        }
        remove_empty_folders(&from, &to);
    }
    if restored.failed.is_empty() {
        let mut undone = path.as_os_str().to_owned();
        undone.push(".undone");
        rename_new(path, Path::new(&undone)).map_err(|error| Error::storage(path, &error))?;
    }
    Ok(restored)
}

/// Moves one file, and says whether that was possible.
fn move_file(from: &Path, to: &Path, file: &str, failed: &mut Vec<DroppedImage>) -> bool {
    let (from, to) = (from.join(file), to.join(file));
    let result = to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| rename_new(&from, &to));
    if let Err(error) = &result {
        let reason = match error.kind() {
            ErrorKind::AlreadyExists => format!("`{}` is there already, and is not overwritten", to.display()),
            _ => error.to_string(),
        };
        failed.push(DroppedImage { path: from.to_string_lossy().into_owned(), reason });
    }
    result.is_ok()
}

/// Renames a file; fails with `AlreadyExists` where the new name is taken.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // File systems that cannot promise it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            result => return Ok(result?),
        }
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

/// Removes the folders that a file left empty, up to `to`, which stays; a folder that holds anything is not removed.
fn remove_empty_folders(file: &Path, to: &Path) {
    for folder in file.ancestors().skip(1).take_while(|folder| *folder != to) {
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

/// Files can only be renamed within one disk; copying and deleting would risk them.
fn check_same_disk(folder: &Path, to: &Path) -> Result<(), Error> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let disk = |path: &Path| path.ancestors().find_map(|path| fs::metadata(path).ok()).map(|found| found.dev());
        if disk(folder) != disk(to) {
            let reason = format!("it is on another disk than `{}`", folder.display());
            return Err(Error::Target { path: PathBuf::from(to), reason });
        }
    }
    Ok(())
}
