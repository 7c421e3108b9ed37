//! Images that lie beside those a table names, and that it does not name: they are left out, and that is said.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::image_folder::{is_image, unread_images};
use super::walk::{Files, files_below};
use super::{ImageLocation, Listing};

/// Where images lie that a table could name.
pub(super) enum Place<'a> {
    /// A folder that is the subset's own, with the folders within where these are looked into.
    Folder(&'a Path, bool),
    /// A table stands for itself: the folder that it lies in, and those of the images that it names, without those within, for it
    /// may lie in anyone's home.
    Around(&'a Path),
}

/// Adds warnings about the images of this place that the listing does not name.
pub(super) fn note(place: Place<'_>, listing: &mut Listing) {
    let files = match place {
        // Where a folder cannot be read, the images that are named in it say so.
        Place::Folder(folder, recursive) => files_below(folder, recursive).unwrap_or_default().regular,
        Place::Around(table) => {
            let beside = |file: &Path| file.parent().map(Path::to_owned);
            let folders: BTreeSet<PathBuf> =
                named(listing).into_iter().chain([table]).filter_map(beside).filter(|folder| folder.is_dir()).collect();
            let files = folders.iter().map(|folder| files_below(folder, false).unwrap_or_default());
            files.flat_map(|Files { regular, .. }| regular).collect()
        }
    };
    note_among(&files, listing);
}

/// The same for files that are known already.
pub(super) fn note_among(files: &[PathBuf], listing: &mut Listing) {
    let named = named(listing);
    let mut unnamed: Vec<&PathBuf> =
        files.iter().filter(|file| is_image(file) && !named.contains(file.as_path())).collect();
    if !unnamed.is_empty() {
        // A name with `..` or a link in it is the same file under another name.
        let listed: HashSet<&Path> = files.iter().map(PathBuf::as_path).collect();
        let elsewhere = named.iter().filter(|file| !listed.contains(**file));
        let elsewhere: HashSet<PathBuf> = elsewhere.filter_map(|file| fs::canonicalize(file).ok()).collect();
        if !elsewhere.is_empty() {
            unnamed.retain(|file| !fs::canonicalize(file).is_ok_and(|real| elsewhere.contains(&real)));
        }
    }
    let warning = unnamed.first().map(|first| {
        format!("{} images are not named in the table and left out, the first is `{}`", unnamed.len(), first.display())
    });
    let unread: Vec<&PathBuf> = files.iter().filter(|file| !named.contains(file.as_path())).collect();
    let warnings: Vec<String> = warning.into_iter().chain(unread_images(&unread)).collect();
    listing.warnings.extend(warnings);
}

fn named(listing: &Listing) -> HashSet<&Path> {
    let examples = listing.examples.iter();
    examples
        .flat_map(|example| example.extra_images.values().chain([&example.image]))
        .map(ImageLocation::path)
        .chain(listing.rejected.iter().map(|problem| problem.path.as_path()))
        .collect()
}
