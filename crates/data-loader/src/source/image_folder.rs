//! A folder of images, nested or not, each with its caption in a text file of the same name.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use sdtrain_recipe::{ExtraImages, SourceFormat, Subset};

use super::beside::Beside;
use super::{ExampleSource, Listing, SourceCaption, SourceExample, SourceKind};
use crate::caption::sidecar;
use crate::{DataError, ImageProblem};

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
}

impl ExampleSource for ImageFolder {
    fn list(&self) -> Result<Listing, DataError> {
        let files = files_below(&self.path, self.recursive)?;
        let endings_of_captions: Vec<&str> =
            self.caption_extensions.iter().map(|extension| extension.trim_start_matches('.')).collect();
        let is_caption = |file: &Path| endings_of_captions.iter().any(|ending| has_ending(file, ending));
        let mut beside = Beside::find(&self.path, &self.extra_images, &files, self.recursive)?;
        let images: Vec<&PathBuf> = files.iter().filter(|file| is_image(file) && !beside.is_one(file)).collect();
        if images.is_empty() {
            return Err(DataError::NoImages {
                path: self.path.clone(),
                extensions: EXTENSIONS.iter().map(|e| format!(".{e}")).collect::<Vec<_>>().join(" "),
                saw: endings(&files),
            });
        }

        let captions: BTreeSet<&PathBuf> = files.iter().filter(|file| is_caption(file)).collect();
        let mut listing = Listing::default();
        let mut used = BTreeSet::new();
        for image in images {
            let mut example = SourceExample::of_file(image.clone(), None);
            for (source, ending) in endings_of_captions.iter().enumerate() {
                let caption_file = image.with_extension(ending);
                if !captions.contains(&caption_file) {
                    continue;
                }
                match sidecar::read(&caption_file) {
                    Ok(text) => example.captions.push(SourceCaption { source, text }),
                    Err(reason) => {
                        listing.broken_captions.push(ImageProblem { path: caption_file.clone(), reason });
                    }
                }
                used.insert(caption_file);
            }
            example.extra_images = beside.of(image);
            listing.examples.push(example);
        }
        listing.extra_images_without_image = beside.unused();
        listing.captions_without_image = captions.into_iter().filter(|file| !used.contains(*file)).cloned().collect();
        let other: BTreeSet<String> = files
            .iter()
            .filter(|file| !is_image(file) && !is_caption(file))
            .filter_map(|file| file.extension().map(|e| format!(".{}", e.to_string_lossy())))
            .collect();
        listing.other_endings = other.into_iter().collect();
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
        }
    }
}

/// Every regular file in `folder` and, if `recursive`, in the folders within, in byte order of the path, so that no language
/// setting and no file system decides what is trained when.
pub(super) fn files_below(folder: &Path, recursive: bool) -> Result<Vec<PathBuf>, DataError> {
    if !folder.is_dir() {
        return Err(no_folder(folder));
    }
    let mut files = Vec::new();
    walk(folder, recursive, &mut Vec::new(), &mut files)?;
    files.sort_unstable_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(files)
}

/// The names of the folders in `folder`, sorted; hidden ones are not looked at.
pub(super) fn folders_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
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
    for entry in fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // Follows links; one that leads nowhere is no file.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if recursive {
                walk(&path, recursive, above, files)?;
            }
        } else if metadata.is_file() {
            files.push(path);
        }
    }
    above.pop();
    Ok(())
}

pub(super) fn is_image(path: &Path) -> bool {
    path.extension().and_then(OsStr::to_str).is_some_and(|e| EXTENSIONS.contains(&e.to_ascii_lowercase().as_str()))
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
            ("é.gif", b""),
            (".hidden.png", b""),
            (".thumbs/x.png", b""),
            ("notes.md", b""),
        ]);
        let listing = list(folder.path()).unwrap();
        assert_eq!(names(&listing, folder.path()), ["Z.webp", "a/b/c.tiff", "a/z.JPG", "b.png", "é.gif"]);
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
