//! A folder of images, nested or not, each with its caption in a text file of the same name.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use sdtrain_recipe::{ExtraImages, SourceFormat, Subset};

use super::beside::Beside;
use super::kept_captions::KeptCaptions;
use super::{ExampleSource, ImageLocation, Listing, SourceExample, SourceKind};
use crate::{DataError, manifest};

/// Endings of the image files that are looked for, in either case.
pub const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "jxl", "avif"];

pub(super) const KIND: SourceKind =
    SourceKind { format: SourceFormat::Folder, recognises: |_| true, open: |subset| Box::new(ImageFolder::of(subset)) };

/// A folder of images with caption files beside them.
///
/// Files and folders whose name begins with a dot are not looked at. Links are followed; a link back to a folder above itself is not.
pub struct ImageFolder {
    /// The folder.
    pub path: PathBuf,
    /// Endings of caption files, with or without their dots; the place of one is the number of its captions' source.
    pub caption_extensions: Vec<String>,
    /// Whether the folders within are looked into.
    pub recursive: bool,
    /// Masks, control images and the like, in folders of their own or beside the images.
    pub extra_images: Vec<ExtraImages>,
    /// Folder where captions are kept for the next time, with what shows whether their files have changed. None: nowhere.
    pub scans: Option<PathBuf>,
}

impl ExampleSource for ImageFolder {
    fn list(&self) -> Result<Listing, DataError> {
        let files = files_below(&self.path, self.recursive)?;
        let endings: Vec<&str> =
            self.caption_extensions.iter().map(|extension| extension.trim_start_matches('.')).collect();
        let is_caption = |file: &Path| endings.iter().any(|ending| has_ending(file, ending));
        let mut beside = Beside::find(&self.path, &self.extra_images, &files, self.recursive)?;
        let is_example = |file: &Path| is_image(file) && !beside.is_one(file);
        let count = files.iter().filter(|file| is_example(file)).count();
        if count == 0 {
            return Err(DataError::NoImages {
                path: self.path.clone(),
                extensions: EXTENSIONS.iter().map(|e| format!(".{e}")).collect::<Vec<_>>().join(" "),
                saw: self::endings(&files),
            });
        }

        let mut listing = Listing::default();
        // Which files are the captions of each image, found while all paths are still in their places.
        let mut has_caption = Vec::with_capacity(count * endings.len());
        let mut used = vec![false; files.len()];
        for (index, image) in files.iter().enumerate().filter(|(_, file)| is_example(file)) {
            for ending in &endings {
                let place = place_of(&files, index, &image.with_extension(ending));
                has_caption.push(place.is_some());
                if let Some(place) = place {
                    used[place] = true;
                }
            }
        }
        let unused = files.iter().zip(&used).filter(|(file, used)| !**used && is_caption(file));
        listing.captions_without_image = unused.map(|(file, _)| file.clone()).collect();
        listing.other_endings = other_endings(&files, is_caption);

        let mut captions = KeptCaptions::of(self, count);
        listing.examples.reserve_exact(count);
        let mut has_caption = has_caption.chunks_exact(endings.len().max(1));
        for file in files {
            if !is_image(&file) || beside.is_one(&file) {
                continue;
            }
            let wanted = has_caption.next().unwrap_or_default();
            let wanted = endings.iter().enumerate().zip(wanted).filter(|(_, is_there)| **is_there);
            let files = wanted.map(|((source, ending), _)| (source, file.with_extension(ending))).collect();
            let found = captions.read(&file, files, &mut listing.broken_captions);
            let extra_images = beside.of(&file);
            listing.examples.push(SourceExample { image: ImageLocation::file(file), captions: found, extra_images });
        }
        listing.warnings.extend(captions.keep(&listing.examples));
        listing.extra_images_without_image = beside.unused();
        Ok(listing)
    }
}

impl ImageFolder {
    /// The folder of a subset.
    pub fn of(subset: &Subset) -> ImageFolder {
        ImageFolder {
            path: subset.path.clone(),
            caption_extensions: subset.caption_extensions(),
            recursive: subset.recursive,
            extra_images: subset.extra_images.clone(),
            scans: manifest::folder(),
        }
    }
}

/// The place of a path in the sorted list, which is nearly always beside that of the image it belongs to.
fn place_of(files: &[PathBuf], image: usize, wanted: &Path) -> Option<usize> {
    let mut near = image.saturating_sub(2)..(image + 3).min(files.len());
    let wanted_bytes = wanted.as_os_str().as_encoded_bytes();
    let near = near.find(|place| files[*place].as_os_str().as_encoded_bytes() == wanted_bytes);
    near.or_else(|| files.binary_search_by(|file| file.as_os_str().as_encoded_bytes().cmp(wanted_bytes)).ok())
}

fn other_endings(files: &[PathBuf], is_caption: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut endings: BTreeSet<&OsStr> = BTreeSet::new();
    for file in files.iter().filter(|file| !is_image(file) && !is_caption(file)) {
        endings.extend(file.extension());
    }
    endings.into_iter().map(|ending| format!(".{}", ending.to_string_lossy())).collect()
}

/// Every regular file in `folder` and, if `recursive`, in the folders within, in byte order of the path, so that no language
/// setting and no file system decides what is trained when.
pub(super) fn files_below(folder: &Path, recursive: bool) -> Result<Vec<PathBuf>, DataError> {
    if !folder.is_dir() {
        return Err(no_folder(folder));
    }
    let mut files = Vec::new();
    walk(folder, recursive, &mut Vec::new(), &mut files)?;
    Ok(files)
}

/// The names of the folders in `folder`, sorted; hidden ones are not looked at.
pub(super) fn folders_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| kind_of(entry) == Some(Kind::Folder))
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

/// Appends every regular file below `folder`. `above` holds the real paths of the folders on the way, to notice a loop.
fn walk(folder: &Path, recursive: bool, above: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
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
        let Some(kind) = kind_of(&entry) else { continue };
        entries.push((name, kind));
    }
    // Folders with the separator behind their name, so that this order is that of the whole paths.
    entries.sort_unstable_by(in_path_order);
    for (name, kind) in entries {
        match kind {
            Kind::File => files.push(folder.join(name)),
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

/// What an entry is, links followed; a link that leads nowhere is nothing, and neither is a device.
fn kind_of(entry: &fs::DirEntry) -> Option<Kind> {
    let kind = entry.file_type().ok()?;
    let kind = if kind.is_symlink() { fs::metadata(entry.path()).ok()?.file_type() } else { kind };
    match (kind.is_file(), kind.is_dir()) {
        (true, _) => Some(Kind::File),
        (_, true) => Some(Kind::Folder),
        _ => None,
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

pub(super) fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str);
    ending.is_some_and(|ending| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(ending)))
}

fn has_ending(path: &Path, ending: &str) -> bool {
    // An ending may hold a dot itself, as `tags.txt` does.
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.strip_suffix(ending.as_bytes()).is_some_and(|stem| stem.ends_with(b"."))
}

/// "12 .heic, 3 .txt" or "no file at all".
fn endings(files: &[PathBuf]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        let ending = file.extension().map_or("without ending".to_owned(), |e| format!(".{}", e.to_string_lossy()));
        *counts.entry(ending).or_default() += 1;
    }
    if counts.is_empty() {
        return "no file at all".to_owned();
    }
    let counts: Vec<String> = counts.iter().take(8).map(|(ending, n)| format!("{n} {ending}")).collect();
    format!("{} (files by ending)", counts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn list(folder: &Path) -> Result<Listing, DataError> {
        ImageFolder::of(&Subset { path: folder.to_owned(), ..Subset::default() }).list()
    }

    fn names(listing: &Listing, folder: &Path) -> Vec<String> {
        let relative = |e: &SourceExample| e.image.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        listing.examples.iter().map(relative).collect()
    }

    #[test]
    fn lists_nested_folders_in_byte_order_of_the_path() {
        let folder = folder_with(&[
            ("b.png", b""),
            ("a/z.JPG", b""),
            ("Z.webp", b""),
            ("a/b/c.tiff", b""),
            ("a-1.png", b""),
            ("a.png", b""),
            ("a0.png", b""),
            ("é.gif", b""),
            (".hidden.png", b""),
            (".thumbs/x.png", b""),
            ("notes.md", b""),
        ]);
        let listing = list(folder.path()).unwrap();
        // The separator lies between `.` and `0`.
        let expected = ["Z.webp", "a-1.png", "a.png", "a/b/c.tiff", "a/z.JPG", "a0.png", "b.png", "é.gif"];
        assert_eq!(names(&listing, folder.path()), expected);
    }

    #[test]
    fn looks_into_the_folders_within_only_if_it_may() {
        let folder = folder_with(&[("a.png", b""), ("in/b.png", b""), ("in/b.txt", b"")]);
        let mut source = ImageFolder::of(&Subset { path: folder.path().to_owned(), ..Subset::default() });
        assert_eq!(source.list().unwrap().examples.len(), 2);
        source.recursive = false;
        let listing = source.list().unwrap();
        assert_eq!(names(&listing, folder.path()), ["a.png"]);
        assert!(listing.captions_without_image.is_empty());
    }

    #[test]
    fn pairs_images_with_their_captions() {
        let folder = folder_with(&[
            ("a.png", b""),
            ("a.txt", b"a red bottle\n"),
            ("b.v2.png", b""),
            ("b.v2.txt", b""),
            ("c.png", b""),
            ("orphan.txt", b"nobody"),
            ("c.caption", b"other"),
        ]);
        let listing = list(folder.path()).unwrap();
        let captions: Vec<Option<&str>> =
            listing.examples.iter().map(|e| e.captions.first().map(|c| c.text.as_str())).collect();
        assert_eq!(captions, [Some("a red bottle"), Some(""), None]);
        assert_eq!(listing.captions_without_image, [folder.path().join("orphan.txt")]);
        assert_eq!(listing.other_endings, [".caption"]);
    }

    #[test]
    fn a_caption_that_is_not_text_is_named() {
        let folder = folder_with(&[("a.png", b""), ("a.txt", b"caf\xe9")]);
        let listing = list(folder.path()).unwrap();
        assert_eq!(listing.broken_captions.len(), 1);
        assert_eq!(listing.broken_captions[0].path, folder.path().join("a.txt"));
    }

    #[test]
    fn a_folder_without_images_says_what_was_looked_at() {
        let folder = folder_with(&[("a.heic", b""), ("b.heic", b""), ("readme", b"")]);
        let error = list(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("no images found in `{}`", folder.path().display())), "{error}");
        assert!(error.contains(".jpg .jpeg .png"), "{error}");
        assert!(error.contains("2 .heic"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(list(empty.path()).unwrap_err().to_string().contains("no file at all"));
    }

    #[test]
    fn a_missing_folder_names_the_nearest_path_that_exists() {
        let folder = folder_with(&[("poster-set/a.png", b"")]);
        let error = list(&folder.path().join("posters/deep/er")).unwrap_err();
        assert!(error.to_string().ends_with(&format!("the nearest path that exists is `{}`", folder.path().display())));
        assert_eq!(error.hint().unwrap(), "folders there: `poster-set`");
        let error = list(&folder.path().join("poster-set/a.png")).unwrap_err().to_string();
        assert!(error.contains("is not a folder"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_back_upwards_is_not_followed_for_ever() {
        let folder = folder_with(&[("in/a.png", b"")]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("in/up")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("gone.png")).unwrap();
        assert_eq!(names(&list(folder.path()).unwrap(), folder.path()), ["in/a.png"]);
    }
}
