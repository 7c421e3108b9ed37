//! What earlier scans of a folder found: a file that has not changed since need not be read again.
//!
//! A manifest holds a record for each image: a name, a digest of everything that must be unchanged (`Stamp`), and what was found.
//! Records are sorted by name, and so are listings, so that the two are walked through side by side and memory holds no more
//! than a block. Each block carries its own digest: what is damaged is as good as absent.

mod file;
mod stamp;

use std::path::PathBuf;

use sdtrain_recipe::cache_folder;

pub(crate) use file::{Known, Manifest};
pub(crate) use stamp::{Digest, Stamp, key_of};

/// Fewer images than this are looked at faster than anyone notices.
pub(crate) const LEAST: usize = 1000;

/// Where manifests lie.
pub(crate) fn folder() -> Option<PathBuf> {
    Some(cache_folder()?.join("scans"))
}

/// A manifest that could not be written, as a warning.
pub(crate) fn not_kept(manifest: &Manifest, error: &std::io::Error) -> String {
    format!(
        "what was found could not be kept in `{}` ({error}): the next start reads every header and caption again; \
         `XDG_CACHE_HOME` names another folder",
        manifest.path().display()
    )
}
