//! What of a data set is in the folder, and what is still to be made.

use sdtrain_files::{in_words, say};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What of the images, or of the texts, is in the folder. `T` is what one of them is known by.
#[derive(Debug)]
pub struct Survey<T> {
    /// What they are, as "images" or "texts".
    pub what: &'static str,
    /// How many have a whole entry.
    pub hits: usize,
    /// Those of them that came from kohya's files.
    pub imported: usize,
    /// The others.
    pub missing: Vec<T>,
    /// Files that were there but damaged, with the reason.
    pub damaged: Vec<(PathBuf, String)>,
    /// What the missing entries will take at most.
    pub missing_bytes: u64,
}

impl<T> Survey<T> {
    /// Of nothing yet.
    pub(crate) fn new(what: &'static str) -> Survey<T> {
        Survey { what, hits: 0, imported: 0, missing: Vec::new(), damaged: Vec::new(), missing_bytes: 0 }
    }

    /// One line on it.
    pub fn summary(&self, folder: &Path) -> String {
        let total = self.hits + self.missing.len();
        let mut text = format!("{} of {total} {} are in `{}`", self.hits, self.what, folder.display());
        if self.imported > 0 {
            let _ = write!(text, " ({} from kohya's files, without randomness)", self.imported);
        }
        if !self.missing.is_empty() {
            let _ = write!(text, ", {} to encode take {}", self.missing.len(), in_words(self.missing_bytes));
        }
        text
    }

    /// Says on standard error what is made again because it was damaged, and the line on all of it behind `label`.
    pub fn tell(&self, label: &str, folder: &Path) {
        self.tell_of_damage();
        say!("{label}: {}", self.summary(folder));
    }

    /// Names what is made again because it was damaged.
    pub fn tell_of_damage(&self) {
        for (path, reason) in &self.damaged {
            tell_of_damage(path, reason);
        }
    }
}

pub(crate) fn tell_of_damage(path: &Path, reason: &str) {
    say!("made again, it was damaged: `{}`: {reason}", path.display());
}

pub(crate) fn tell_of_deletion(path: &Path) {
    say!("made again, it was deleted: `{}`", path.display());
}

/// What became of an entry.
pub(crate) enum Look {
    /// It is there.
    Hit {
        /// Whether it came from one of kohya's files.
        imported: bool,
    },
    /// It is not.
    Missing,
    /// It was, but damaged.
    Damaged(PathBuf, String),
}

impl<T> Survey<T> {
    /// Counts one more, whose entry takes `bytes` at most.
    pub(crate) fn add(&mut self, one: T, look: Look, bytes: u64) {
        match look {
            Look::Hit { imported } => {
                self.hits += 1;
                self.imported += usize::from(imported);
                return;
            }
            Look::Missing => {}
            Look::Damaged(path, reason) => self.damaged.push((path, reason)),
        }
        self.missing_bytes += bytes;
        self.missing.push(one);
    }
}
