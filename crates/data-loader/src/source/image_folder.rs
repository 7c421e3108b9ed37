//! A folder of images, nested or not, each with its caption in a text file of the same name.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use sdtrain_recipe::{ExtraImages, SourceFormat, Subset};

use super::beside::Beside;
use super::kept_captions::KeptCaptions;
use super::walk::{Files, files_below};
use super::{ExampleSource, ImageLocation, Listing, SourceExample, SourceKind};
use crate::{DataError, ImageProblem, manifest};

/// Endings of the image files that are looked for, in either case.
pub const EXTENSIONS: &[&str] =
    &["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "jxl", "avif", "jfif", "jpe", "apng"];

/// Endings of image files that no decoder here reads: what has one is named, for it looks as if it were trained on.
#[rustfmt::skip]
const UNREAD_EXTENSIONS: &[&str] = &[
    "heic", "heif", "hif", "jp2", "j2k", "jpx", "jxr", "svg", "psd", "psb", "xcf", "kra", "ai", "eps", "tga", "dds", "exr",
    "hdr", "qoi", "ico", "pcx", "pbm", "pgm", "ppm", "pnm", "pam", "dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2", "pef",
];

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
        let Files { regular: files, unreachable } = files_below(&self.path, self.recursive)?;
        let endings: Vec<&str> =
            self.caption_extensions.iter().map(|extension| extension.trim_start_matches('.')).collect();
        let is_caption = |file: &Path| endings.iter().any(|ending| has_ending(file, ending));
        let mut beside = Beside::find(&self.path, &self.extra_images, &files, self.recursive)?;
        let is_example = |file: &Path| is_image(file) && !beside.is_one(file);
        let count = files.iter().filter(|file| is_example(file)).count();
        let lost: Vec<ImageProblem> = unreachable.iter().filter(|entry| is_image(&entry.path)).cloned().collect();
        if count + lost.len() == 0 {
            return Err(DataError::NoImages {
                path: self.path.clone(),
                extensions: EXTENSIONS.iter().map(|e| format!(".{e}")).collect::<Vec<_>>().join(" "),
                saw: self::endings(&files),
            });
        }

        let mut listing = Listing { rejected: lost, ..Listing::default() };
        listing.broken_captions = unreachable.into_iter().filter(|entry| is_caption(&entry.path)).collect();
        listing.warnings.extend(unread_images(&files));
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
        listing.warnings.extend(beside.warnings().iter().cloned());
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

pub(super) fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str);
    ending.is_some_and(|ending| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(ending)))
}

/// Whether a file is an image by its name, of a kind that is not read.
pub(super) fn is_unread_image(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str);
    ending.is_some_and(|ending| UNREAD_EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(ending)))
}

/// A warning about the images among these files that are of a kind that is not read, if there are any.
pub(super) fn unread_images<P: AsRef<Path>>(files: &[P]) -> Option<String> {
    let unread: Vec<&Path> = files.iter().map(AsRef::as_ref).filter(|file| is_unread_image(file)).collect();
    let first = unread.first()?;
    Some(format!(
        "{} images are of kinds that are not read, and left out: {}; the first is `{}`; convert them to PNG or JPEG",
        unread.len(),
        counted_endings(&unread),
        first.display()
    ))
}

fn has_ending(path: &Path, ending: &str) -> bool {
    // An ending may hold a dot itself, as `tags.txt` does.
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.strip_suffix(ending.as_bytes()).is_some_and(|stem| stem.ends_with(b"."))
}

/// "12 .heic, 3 .txt (files by ending)" or "no file at all".
fn endings(files: &[PathBuf]) -> String {
    match files.is_empty() {
        true => "no file at all".to_owned(),
        false => format!("{} (files by ending)", counted_endings(files)),
    }
}

/// "12 .heic, 3 .txt", at most eight of them.
fn counted_endings<P: AsRef<Path>>(files: &[P]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        let ending = file.as_ref().extension();
        let ending = ending.map_or("without ending".to_owned(), |e| format!(".{}", e.to_string_lossy()));
        *counts.entry(ending).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().take(8).map(|(ending, n)| format!("{n} {ending}")).collect();
    counts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        assert_eq!(names(&list(folder.path()).unwrap(), folder.path()), ["in/a.png"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_an_image_or_a_caption_that_cannot_be_read() {
        let folder = folder_with(&[("in/a.png", b"")]);
        for name in ["gone.png", "in/a.txt", "notes.md"] {
            std::os::unix::fs::symlink("nowhere", folder.path().join(name)).unwrap();
        }
        let listing = list(folder.path()).unwrap();
        assert_eq!(names(&listing, folder.path()), ["in/a.png"]);
        let [image] = &listing.rejected[..] else { panic!("{:?}", listing.rejected) };
        assert!(
            image.path.ends_with("gone.png") && image.reason.starts_with("is a link that leads nowhere"),
            "{image}"
        );
        let [caption] = &listing.broken_captions[..] else { panic!("{:?}", listing.broken_captions) };
        assert!(caption.path.ends_with("in/a.txt"), "{caption}");
        assert!(listing.warnings.is_empty(), "{:?}", listing.warnings);
    }

    #[test]
    fn images_of_kinds_that_are_not_read_are_counted_and_jfif_is_jpeg() {
        let folder = folder_with(&[("a.JFIF", b""), ("b.heic", b""), ("c.PSD", b""), ("d.heic", b""), ("e.md", b"")]);
        let listing = list(folder.path()).unwrap();
        assert_eq!(names(&listing, folder.path()), ["a.JFIF"]);
        let [warning] = &listing.warnings[..] else { panic!("{:?}", listing.warnings) };
        let start = "3 images are of kinds that are not read, and left out: 1 .PSD, 2 .heic; the first is `";
        assert!(warning.starts_with(start) && warning.contains("b.heic"), "{warning}");
    }
}
