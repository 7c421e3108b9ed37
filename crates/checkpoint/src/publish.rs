//! Publishing: temporary folder → files → manifest → forced to disk → renamed → parent forced to disk → `latest`.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::manifest::{MANIFEST_NAME, Manifest, is_plain_name};
use crate::recover::verify_with;
use crate::seeded_bugs::{Bug, seeded};
use crate::vfs::{RealVfs, Vfs, VfsFile, remove_all};
use crate::{Error, FileEntry, ManifestInfo, Result};

/// The file that names the newest checkpoint, for people and scripts.
pub const LATEST_NAME: &str = "latest";

/// A folder being written.
pub(crate) const TEMPORARY: &str = ".tmp-";
/// A folder that gave its name to a newer one of the same name and comes back if that one did not make it.
pub(crate) const REPLACED: &str = ".replaced-";
/// A folder being deleted.
pub(crate) const TRASH: &str = ".trash-";

/// Bytes read at a time while hashing.
const CHUNK: usize = 1 << 16;

/// What the producer of a checkpoint's content returns.
pub type Fill = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Publishes a folder that `files` fills through ordinary paths: whatever lies in it when `files` returns belongs to the checkpoint.
///
/// The caller holds the [`FolderLock`](crate::FolderLock) of the run. On return the checkpoint has reached the disk and `latest` names it.
/// On an error the checkpoints that were there are as they were, and nothing half-written has the checkpoint's name.
pub fn publish(
    parent: &Path,
    name: &str,
    manifest: ManifestInfo,
    files: &mut dyn FnMut(&Path) -> Fill,
) -> Result<PathBuf> {
    publish_with(&RealVfs, parent, name, manifest, &mut |publication| {
        files(publication.folder())?;
        publication.adopt_folder()?;
        Ok(())
    })
}

/// Publishes a folder that `fill` writes file by file, hashing as it goes.
pub fn publish_with(
    vfs: &dyn Vfs,
    parent: &Path,
    name: &str,
    manifest: ManifestInfo,
    fill: &mut dyn FnMut(&mut Publication) -> Fill,
) -> Result<PathBuf> {
    if !is_plain_name(name) || name == LATEST_NAME {
        return Err(Error::Name { name: name.to_owned(), of: "a checkpoint" });
    }
    create_folders(vfs, parent)?;
    if seeded(Bug::DeleteFirst) {
        for entry in vfs.list(parent).context("list", parent)?.iter().filter(|entry| entry.is_folder) {
            remove_all(vfs, &parent.join(&entry.name)).context("remove", parent)?;
        }
    }
    let temporary = parent.join(if seeded(Bug::InPlace) { name.to_owned() } else { format!("{TEMPORARY}{name}") });
    if vfs.exists(&temporary).context("look at", &temporary)? {
        remove_all(vfs, &temporary).context("remove", &temporary)?;
    }
    let written = write_temporary(vfs, &temporary, name, manifest, fill);
    if seeded(Bug::LatestFirst) {
        write_latest(vfs, parent, name)?;
    }
    let published = written.and_then(|manifest| rename_into_place(vfs, parent, name, &temporary, &manifest));
    if published.is_err() && !seeded(Bug::KeepAttempt) {
        // The disk may be full: give back what this attempt took. If even that fails, the next start does it.
        let _ = remove_all(vfs, &temporary);
    }
    let target = published?;
    write_latest(vfs, parent, name)?;
    Ok(target)
}

/// Makes `latest` in the folder `parent` name this checkpoint, durably.
pub fn write_latest(vfs: &dyn Vfs, parent: &Path, name: &str) -> Result<()> {
    let name = if seeded(Bug::LatestWrong) { format!("{TEMPORARY}{name}") } else { name.to_owned() };
    replace_file(vfs, &parent.join(LATEST_NAME), &latest_content(&name))
}

/// What `latest` says when it names this checkpoint.
pub(crate) fn latest_content(name: &str) -> Vec<u8> {
    format!("{name}\n").into_bytes()
}

fn write_temporary(
    vfs: &dyn Vfs,
    temporary: &Path,
    name: &str,
    manifest: ManifestInfo,
    fill: &mut dyn FnMut(&mut Publication) -> Fill,
) -> Result<Manifest> {
    vfs.create_folder(temporary).context("create", temporary)?;
    let mut publication = Publication { vfs, folder: temporary.to_owned(), files: Vec::new() };
    fill(&mut publication).map_err(|source| content_error(source, name, temporary))?;
    let manifest = Manifest::new(manifest, publication.files);
    if !seeded(Bug::ManifestLast) {
        write_file(vfs, &temporary.join(MANIFEST_NAME), &manifest.to_json(), !seeded(Bug::ManifestSync))?;
    }
    if !seeded(Bug::FolderSync) {
        vfs.sync_folder(temporary).context("force to disk", temporary)?;
    }
    Ok(manifest)
}

/// Errors of this crate and of the disk as what they are, others as the producer's.
fn content_error(source: Box<dyn std::error::Error + Send + Sync>, name: &str, temporary: &Path) -> Error {
    let source = match source.downcast::<Error>() {
        Ok(own) => return *own,
        Err(source) => source,
    };
    match source.downcast::<io::Error>() {
        Ok(disk) => Error::storage("write to", temporary, *disk),
        Err(source) => Error::Content { name: name.to_owned(), source },
    }
}

fn rename_into_place(
    vfs: &dyn Vfs,
    parent: &Path,
    name: &str,
    temporary: &Path,
    manifest: &Manifest,
) -> Result<PathBuf> {
    let target = parent.join(name);
    if seeded(Bug::InPlace) {
        vfs.sync_folder(parent).context("force to disk", parent)?;
        return Ok(target);
    }
    let mut replaced = None;
    if vfs.exists(&target).context("look at", &target)? {
        // A run that goes back and comes here again writes the same bytes; then there is nothing to do.
        if verify_with(vfs, &target).is_ok_and(|there| there.files == manifest.files && there.info == manifest.info) {
            remove_all(vfs, temporary).context("remove", temporary)?;
            vfs.sync_folder(parent).context("force to disk", parent)?;
            return Ok(target);
        }
        let aside = parent.join(format!("{REPLACED}{name}"));
        if vfs.exists(&aside).context("look at", &aside)? {
            remove_all(vfs, &aside).context("remove", &aside)?;
        }
        vfs.rename(&target, &aside).context("rename", &target)?;
        if seeded(Bug::RemoveReplaced) {
            remove_all(vfs, &aside).context("remove", &aside)?;
        } else {
            replaced = Some(aside);
        }
    }
    if let Err(error) = vfs.rename(temporary, &target)
        && !seeded(Bug::SwallowRename)
    {
        if let Some(aside) = &replaced {
            // Otherwise the next start puts it back.
            let _ = vfs.rename(aside, &target);
        }
        return Err(Error::storage("rename", temporary, error));
    }
    if seeded(Bug::ManifestLast) {
        write_file(vfs, &target.join(MANIFEST_NAME), &manifest.to_json(), true)?;
        vfs.sync_folder(&target).context("force to disk", &target)?;
    }
    if !seeded(Bug::ParentSync) {
        vfs.sync_folder(parent).context("force to disk", parent)?;
    }
    if let Some(aside) = replaced {
        // It is complete in its new form; what is left of the old one is removed at the next start at the latest.
        let _ = remove_all(vfs, &aside);
    }
    Ok(target)
}

/// A checkpoint's folder while it is being filled.
pub struct Publication<'a> {
    vfs: &'a dyn Vfs,
    folder: PathBuf,
    files: Vec<FileEntry>,
}

impl<'a> Publication<'a> {
    /// The temporary folder, for writers that want a path; [`adopt_folder`](Self::adopt_folder) takes in what they wrote.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a file with this content.
    pub fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let mut file = self.create(name)?;
        file.write_all(content).context("write", &self.folder.join(name))?;
        self.finish(file)
    }

    /// Begins a file that is written piece by piece; [`finish`](Self::finish) adds it.
    pub fn create(&self, name: &str) -> Result<PublicationFile<'a>> {
        self.check_name(name)?;
        let path = self.folder.join(name);
        let file = self.vfs.create_file(&path).context("create", &path)?;
        Ok(PublicationFile { name: name.to_owned(), path, file, hasher: blake3::Hasher::new(), length: 0 })
    }

    /// Forces a file to disk and adds it.
    pub fn finish(&mut self, mut file: PublicationFile<'a>) -> Result<()> {
        file.file.flush().context("write", &file.path)?;
        if !seeded(Bug::FileSync) {
            let synced = file.file.sync().context("force to disk", &file.path);
            synced.or_else(|error| if seeded(Bug::SwallowSync) { Ok(()) } else { Err(error) })?;
        }
        let blake3 = file.hasher.finalize().to_hex().to_string();
        self.files.push(FileEntry { name: file.name, length: file.length, blake3 });
        Ok(())
    }

    /// Adds every file of the folder that was not added yet: reads it back, hashes it, forces it to disk.
    pub fn adopt_folder(&mut self) -> Result<()> {
        for entry in self.vfs.list(&self.folder).context("list", &self.folder)? {
            if self.files.iter().any(|file| file.name == entry.name) {
                continue;
            }
            if entry.is_folder {
                return Err(Error::Name { name: entry.name, of: "a file in a checkpoint" });
            }
            self.check_name(&entry.name)?;
            let path = self.folder.join(&entry.name);
            let mut hashed = None;
            let mut read_back = || hashed = Some(hash(self.vfs, &path));
            if seeded(Bug::AdoptedSync) {
                read_back();
            } else {
                self.vfs.sync_file_and(&path, &mut read_back).context("force to disk", &path)?;
            }
            let (length, blake3) = hashed.expect("it was read back").context("read", &path)?;
            self.files.push(FileEntry { name: entry.name, length, blake3 });
        }
        Ok(())
    }

    fn check_name(&self, name: &str) -> Result<()> {
        if is_plain_name(name) && !self.files.iter().any(|file| file.name == name) {
            return Ok(());
        }
        Err(Error::Name { name: name.to_owned(), of: "a file in a checkpoint" })
    }
}

/// A file of a checkpoint while it is written; given to [`Publication::finish`] at the end.
pub struct PublicationFile<'a> {
    name: String,
    path: PathBuf,
    file: Box<dyn VfsFile + 'a>,
    hasher: blake3::Hasher,
    length: u64,
}

impl Write for PublicationFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Length and BLAKE3 hash of a file.
pub(crate) fn hash(vfs: &dyn Vfs, path: &Path) -> io::Result<(u64, String)> {
    let mut file = vfs.open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut length = 0;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((length, hasher.finalize().to_hex().to_string())),
            Ok(read) => {
                hasher.update(&chunk[..read]);
                length += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
            Err(e) => return Err(e),
        }
    }
}

/// Puts a small file in the place of another, durably: at every moment there is the old one or the new one.
pub fn replace_file(vfs: &dyn Vfs, path: &Path, content: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let temporary = folder.join(format!("{TEMPORARY}{name}"));
    if vfs.exists(&temporary).context("look at", &temporary)? {
        vfs.remove_file(&temporary).context("remove", &temporary)?;
    }
    let replaced = write_file(vfs, &temporary, content, !seeded(Bug::ReplacedFileSync))
        .and_then(|()| vfs.rename(&temporary, path).context("rename", &temporary))
        .and_then(|()| match seeded(Bug::ReplacedFileFolderSync) {
            true => Ok(()),
            false => vfs.sync_folder(folder).context("force to disk", folder),
        });
    if replaced.is_err() {
        let _ = vfs.remove_file(&temporary);
    }
    if seeded(Bug::SwallowReplace) { Ok(()) } else { replaced }
}

fn write_file(vfs: &dyn Vfs, path: &Path, content: &[u8], durably: bool) -> Result<()> {
    let mut file = vfs.create_file(path).context("create", path)?;
    file.write_all(content).context("write", path)?;
    file.flush().context("write", path)?;
    if durably { file.sync().context("force to disk", path) } else { Ok(()) }
}

/// Makes a folder and those above it, each one's name forced to disk before anything is made in it.
///
/// The name of a folder that is there already is forced to disk too: whoever made it may have been killed before that.
pub(crate) fn create_folders(vfs: &dyn Vfs, folder: &Path) -> Result<()> {
    let Some(above) = folder.parent() else { return Ok(()) };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let was_there = vfs.exists(folder).context("look at", folder)?;
    if !was_there {
        if above != Path::new(".") {
            create_folders(vfs, above)?;
        }
        vfs.create_folder(folder).context("create", folder)?;
    }
    if seeded(Bug::MadeFolderSync) {
        return Ok(());
    }
    match vfs.sync_folder(above) {
        // A folder of somebody else, which may be walked through and not be read; then this run did not make what is in it.
        Err(error) if was_there && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.context("force to disk the name of", folder),
    }
}

/// Tries everything a checkpoint needs in this folder, so that a read-only disk is found before the first step and not at the first save.
pub fn probe(parent: &Path) -> Result<()> {
    create_folders(&RealVfs, parent)?;
    try_out(parent, ".probe")
}

/// The same for a folder that others may look at in this moment too, or that is not there yet and is not to be made: tried is the nearest
/// one above it that is. Nothing stays.
pub fn probe_ahead(folder: &Path) -> Result<()> {
    // A file in the place of a folder is found as well, and refuses.
    let there = folder.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("."));
    try_out(there, &format!(".probe-{}", std::process::id()))
}

fn try_out(folder: &Path, name: &str) -> Result<()> {
    let path = folder.join(name);
    replace_file(&RealVfs, &path, b"can this folder be written?\n")?;
    RealVfs.remove_file(&path).context("remove", &path)
}
