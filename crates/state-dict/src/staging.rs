//! A folder that takes its place whole and forced to disk; what had that place before keeps it until then.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::write::{folder_of, hidden_beside, sync_parent};

/// A folder beside its final place that removes itself unless it is published.
pub(crate) struct Staging {
    pub(crate) path: PathBuf,
}

/// Gives two paths of one disk each other's content in one step; `false` where the system cannot.
type Exchange = fn(&Path, &Path) -> io::Result<bool>;

impl Staging {
    /// A new one for `folder`, and the folders above it where they are missing.
    pub(crate) fn beside(folder: &Path) -> Result<Staging> {
        let staging = Staging { path: hidden_beside(folder, "partial") };
        let save = |source| Error::Save { path: staging.path.clone(), source };
        create_above(folder).map_err(save)?;
        for left in [&staging.path, &hidden_beside(folder, "replaced")] {
            clear(left).map_err(save)?;
        }
        fs::create_dir(&staging.path).map_err(save)?;
        Ok(staging)
    }

    /// Gives it its name, in the place of what had it before.
    pub(crate) fn publish(self, folder: &Path) -> Result<()> {
        self.publish_with(folder, exchange)
    }

    fn publish_with(self, folder: &Path, exchange: Exchange) -> Result<()> {
        let save = |source| Error::Save { path: folder.to_path_buf(), source };
        sync_folders(&self.path).map_err(save)?;
        let old = hidden_beside(folder, "replaced");
        if !is_there(folder) {
            fs::rename(&self.path, folder).map_err(save)?;
        } else if !exchange(&self.path, folder).map_err(save)? {
            // For a moment neither has the name: whoever is killed there has the old one put back by the next (`put_back`).
            fs::rename(folder, &old).map_err(save)?;
            if let Err(source) = fs::rename(&self.path, folder) {
                fs::rename(&old, folder).map_err(save)?;
                return Err(save(source));
            }
        }
        // Only then the old content goes: until the new name is on the disk, a power cut brings the old one back.
        if let Err(source) = sync_parent(folder) {
            // Which of the two a power cut would leave is not known: both stay, and the next clears one away.
            std::mem::forget(self);
            return Err(save(source));
        }
        // The new folder is in its place whatever comes of this; what stays is cleared away by the next.
        let _ = remove(&old);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What was not published, or what was exchanged for it. After a plain rename there is nothing left to remove.
        let _ = remove(&self.path);
    }
}

/// Where a run was killed between the two renames of a system that cannot exchange, `folder` gets back its content of before.
pub(crate) fn put_back(folder: &Path) -> Result<()> {
    let old = hidden_beside(folder, "replaced");
    if is_there(folder) || !is_there(&old) {
        return Ok(());
    }
    fs::rename(&old, folder)
        .and_then(|()| sync_parent(folder))
        .map_err(|source| Error::Save { path: folder.to_path_buf(), source })
}

#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        // Some network file systems, and kernels of old.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Removes what a killed run left.
fn clear(left: &Path) -> io::Result<()> {
    if !is_there(left) {
        return Ok(());
    }
    // On the disk it may still have the name of the folder that it was exchanged for, which a power cut would bring back, emptied.
    sync_parent(left)?;
    remove(left)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Makes the folders above `path` that are missing, each one's name forced to disk.
fn create_above(path: &Path) -> io::Result<()> {
    let folder = folder_of(path);
    if folder.is_dir() {
        return Ok(());
    }
    create_above(folder)?;
    match fs::create_dir(folder) {
        // Somebody else was first.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_parent(folder),
    }
}

/// Forces the names in a folder and in those inside it to disk; the files were when they were written.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    /// Publishes a folder with this text at `folder`.
    fn publish(folder: &Path, text: &str, exchange: Exchange) {
        put_back(folder).unwrap();
        let staging = Staging::beside(folder).unwrap();
        fs::create_dir(staging.path.join("unet")).unwrap();
        fs::write(staging.path.join("unet/config.json"), text).unwrap();
        staging.publish_with(folder, exchange).unwrap();
    }

    fn content(folder: &Path) -> String {
        fs::read_to_string(folder.join("unet/config.json")).unwrap()
    }

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_folder_is_replaced_by_whatever_the_system_can() {
        let ways: [Exchange; 2] = [exchange, |_, _| Ok(false)];
        for exchange in ways {
            let scratch = tempfile::tempdir().unwrap();
            let folder = scratch.path().join("above/model");
            for text in ["old", "new"] {
                publish(&folder, text, exchange);
                assert_eq!(content(&folder), text);
                assert_eq!(entries(&scratch.path().join("above")), 1, "nothing else stays");
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_is_replaced_has_its_name_at_every_moment() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("model");
        publish(&folder, "0", exchange);
        let other = scratch.path().join("other");
        fs::create_dir(&other).unwrap();
        if !exchange(&folder, &other).unwrap() {
            eprintln!("SKIPPED: this disk cannot exchange two folders");
            return;
        }
        assert!(exchange(&folder, &other).unwrap());
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut looks = 0u64;
                while !over.load(Ordering::Relaxed) {
                    assert!(folder.is_dir(), "gone after {looks} looks");
                    looks += 1;
                }
            });
            for number in 1..=50 {
                publish(&folder, &number.to_string(), exchange);
            }
            over.store(true, Ordering::Relaxed);
            watch.join().unwrap();
        });
        assert_eq!(content(&folder), "50");
    }

    #[test]
    fn what_a_run_killed_between_two_renames_had_moved_away_is_put_back_before_anything_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("model");
        publish(&folder, "old", exchange);
        let moved = hidden_beside(&folder, "replaced");
        fs::rename(&folder, &moved).unwrap();
        put_back(&folder).unwrap();
        assert_eq!(content(&folder), "old");
        // Killed behind the second one: the new folder counts, and the old one goes.
        publish(&moved, "older", exchange);
        publish(&folder, "new", exchange);
        assert_eq!((content(&folder).as_str(), entries(scratch.path())), ("new", 1));
    }

    #[test]
    fn a_folder_that_cannot_have_its_name_leaves_the_old_one_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("model");
        publish(&folder, "old", exchange);
        let staging = Staging::beside(&folder).unwrap();
        let failed = staging.publish_with(&folder, |_, _| Err(ErrorKind::StorageFull.into()));
        assert!(failed.unwrap_err().is_storage());
        assert_eq!((content(&folder).as_str(), entries(scratch.path())), ("old", 1));
    }
}
