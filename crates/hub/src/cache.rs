//! The places of one repository in the cache, as `huggingface_hub` lays them out.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sdtrain_recipe::HubName;
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::hash::Hash;

/// Tells apart what this process writes at the same time.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A repository's folder in the cache.
pub(crate) struct Repository {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repository {
    pub(crate) fn new(cache: &Path, name: &HubName) -> Repository {
        Repository { folder: name.folder(cache), locks: cache.join(".locks").join(name.folder_name()) }
    }

    /// Where the files of a commit have their names.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where the content of a file lies.
    pub(crate) fn blob(&self, hash: &Hash) -> PathBuf {
        self.folder.join("blobs").join(hash.as_str())
    }

    /// As much of it as has come.
    pub(crate) fn incomplete(&self, hash: &Hash) -> PathBuf {
        self.folder.join("blobs").join(format!("{}.incomplete", hash.as_str()))
    }

    /// Notes which commit a branch or tag is. A commit is its own name.
    pub(crate) fn set_reference(&self, revision: &str, commit: &str) -> Result<()> {
        let file = self.folder.join("refs").join(revision);
        if revision == commit || fs::read_to_string(&file).is_ok_and(|there| there == commit) {
            return Ok(());
        }
        let write = || {
            create_parent(&file)?;
            let pending = beside(&file);
            fs::write(&pending, commit)?;
            fs::rename(&pending, &file)
        };
        write().map_err(Error::io(&file))
    }

    /// Holds a blob for this process until it is dropped; `wait` is called where another one has it.
    pub(crate) async fn lock(&self, hash: &Hash, wait: impl FnOnce()) -> Result<File> {
        let path = self.locks.join(format!("{}.lock", hash.as_str()));
        let open = || {
            create_parent(&path)?;
            File::options().read(true).write(true).create(true).truncate(false).open(&path)
        };
        let file = open().map_err(Error::io(&path))?;
        let mut wait = Some(wait);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                // Waiting must not stop the other files of this process.
                Err(TryLockError::WouldBlock) => {
                    if let Some(wait) = wait.take() {
                        wait();
                    }
                    sleep(Duration::from_millis(200)).await;
                }
                // Some network drives have no locks. What has come is checked in any case.
                Err(TryLockError::Error(_)) => return Ok(file),
            }
        }
    }

    /// Gives a complete part its place, for good.
    pub(crate) fn publish(&self, hash: &Hash) -> Result<()> {
        let (part, blob) = (self.incomplete(hash), self.blob(hash));
        let publish = || {
            File::open(&part)?.sync_all()?;
            fs::rename(&part, &blob)?;
            // The name is in the folder.
            blob.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        publish().map_err(Error::io(&blob))
    }

    /// Gives a blob the name that it has in a commit.
    pub(crate) fn link(&self, commit: &str, name: &str, hash: &Hash) -> Result<()> {
        self.link_by(commit, name, hash, |target, link| std::os::unix::fs::symlink(target, link))
    }

    fn link_by(
        &self,
        commit: &str,
        name: &str,
        hash: &Hash,
        symlink: impl Fn(&Path, &Path) -> io::Result<()>,
    ) -> Result<()> {
        let link = self.snapshot(commit).join(name);
        let depth = Path::new(name).components().filter(|part| matches!(part, Component::Normal(_))).count();
        // A relative link stays right where the cache is moved.
        let target = Path::new(&"../".repeat(depth + 1)).join("blobs").join(hash.as_str());
        let write = || {
            create_parent(&link)?;
            let pending = beside(&link);
            match symlink(&target, &pending) {
                // Some disks have no links (EPERM, ENOTSUP): there the file itself gets the name, as `huggingface_hub` does it.
                Err(error) if [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported].contains(&error.kind()) => {
                    fs::rename(self.blob(hash), &link)
                }
                made => made.and_then(|()| fs::rename(&pending, &link)),
            }
        };
        write().map_err(Error::io(&link))
    }
}

fn create_parent(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), fs::create_dir_all)
}

/// A name that nobody else has.
fn beside(file: &Path) -> PathBuf {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.{}-{number}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_disk_without_links_a_file_gets_its_name_itself() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let name = HubName::parse("hf:org/repo").expect("a name");
        let repository = Repository::new(cache.path(), &name);
        let (hash, commit) = (Hash::from_header(&"a".repeat(40)).expect("a hash"), "b".repeat(40));
        let named = repository.snapshot(&commit).join("unet/config.json");
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported] {
            create_parent(&repository.blob(&hash)).expect("a new folder");
            fs::write(repository.blob(&hash), "{}").expect("a new file");
            repository.link_by(&commit, "unet/config.json", &hash, |_, _| Err(kind.into())).expect("it is moved");
            assert!(
                fs::symlink_metadata(&named).is_ok_and(|there| there.is_file()) && !repository.blob(&hash).exists()
            );
        }
        let full = |_: &Path, _: &Path| Err(io::ErrorKind::StorageFull.into());
        assert!(repository.link_by(&commit, "vae/config.json", &hash, full).is_err());
    }
}
