//! The files below a folder, in an order that no file system decides, and what is there but cannot be opened as a file.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{DataError, ImageProblem};

/// What lies below a folder.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Every regular file, links followed, in byte order of the path.
    pub regular: Vec<PathBuf>,
    /// Links that lead nowhere, pipes and devices, sorted by path. Only their names say what they should have been.
    pub unreachable: Vec<ImageProblem>,
}

/// Everything in `folder` and, if `recursive`, in the folders within. Names that begin with a dot are not looked at. Byte order of
/// the path, so that no language setting and no file system decides what is trained when.
pub(super) fn files_below(folder: &Path, recursive: bool) -> Result<Files, DataError> {
    if !folder.is_dir() {
        return Err(no_folder(folder));
    }
    let mut files = Files::default();
    walk(folder, recursive, &mut Vec::new(), &mut files)?;
    files.unreachable.sort_by(|a, b| a.path.as_os_str().as_encoded_bytes().cmp(b.path.as_os_str().as_encoded_bytes()));
    Ok(files)
}

/// The names of the folders in `folder`, sorted; hidden ones are not looked at.
pub(super) fn folders_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| kind_of(entry) == Ok(Kind::Folder))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// The error for a folder that is not there.
pub(super) fn no_folder(path: &Path) -> DataError {
    let what = if path.exists() { "is not a folder" } else { "does not exist" };
    let nearest = path
        .ancestors()
        .skip(1)
        .map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p })
        .find(|p| p.exists())
        .unwrap_or(Path::new("."));
    let folders = folders_in(nearest);
    const SHOWN: usize = 8;
    let hint = (!folders.is_empty()).then(|| {
        let names: Vec<String> = folders.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
        let more = if folders.len() > SHOWN { ", …" } else { "" };
        format!("folders there: {}{more}", names.join(", "))
    });
    DataError::NoFolder { path: path.to_owned(), what, nearest: nearest.to_owned(), hint }
}

/// Adds everything below `folder`. `above` holds the real paths of the folders on the way, to notice a loop.
fn walk(folder: &Path, recursive: bool, above: &mut Vec<PathBuf>, files: &mut Files) -> Result<(), DataError> {
    let error = |e: std::io::Error| DataError::Folder { path: folder.to_owned(), reason: e.to_string() };
    let real = fs::canonicalize(folder).map_err(error)?;
    if above.contains(&real) {
        return Ok(());
    }
    above.push(real);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match kind_of(&entry) {
            Ok(kind) => entries.push((name, kind)),
            Err(reason) => files.unreachable.push(ImageProblem { path: folder.join(name), reason }),
        }
    }
    // Folders with the separator behind their name, so that this order is that of the whole paths.
    entries.sort_unstable_by(in_path_order);
    for (name, kind) in entries {
        match kind {
            Kind::File => files.regular.push(folder.join(name)),
            Kind::Folder if recursive => walk(&folder.join(name), recursive, above, files)?,
            Kind::Folder => {}
        }
    }
    above.pop();
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

/// What an entry is, links followed; or why it is neither a file nor a folder.
fn kind_of(entry: &fs::DirEntry) -> Result<Kind, String> {
    let kind = entry.file_type().map_err(|e| e.to_string())?;
    let kind = match kind.is_symlink() {
        true => fs::metadata(entry.path()).map_err(|e| format!("is a link that leads nowhere: {e}"))?.file_type(),
        false => kind,
    };
    match (kind.is_file(), kind.is_dir()) {
        (true, _) => Ok(Kind::File),
        (_, true) => Ok(Kind::Folder),
        _ => Err("is a pipe or a device, not a file".to_owned()),
    }
}

/// Sorts the entries of a folder so that all paths below it are in byte order: folders as if the separator stood behind them.
fn in_path_order((a, a_kind): &(OsString, Kind), (b, b_kind): &(OsString, Kind)) -> Ordering {
    let end = |kind: &Kind| if *kind == Kind::Folder { b"/".as_slice() } else { b"" };
    let (a, b) = (a.as_encoded_bytes(), b.as_encoded_bytes());
    let common = a.len().min(b.len());
    // Slices are compared much faster than byte after byte.
    a[..common].cmp(&b[..common]).then_with(|| {
        let rest_of_b = b[common..].iter().chain(end(b_kind));
        a[common..].iter().chain(end(a_kind)).cmp(rest_of_b)
    })
}
