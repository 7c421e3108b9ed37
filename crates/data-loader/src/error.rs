//! What can be wrong with a data set, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// One file and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageProblem {
    /// The file.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub reason: String,
}

impl fmt::Display for ImageProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.path.display(), self.reason)
    }
}

/// A data set that cannot be trained on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// A subset's folder does not exist or is not a folder.
    #[error("`{}` {what}; the nearest path that exists is `{}`", .path.display(), .nearest.display())]
    NoFolder {
        /// The folder of the configuration.
        path: PathBuf,
        /// "does not exist" or "is not a folder".
        what: &'static str,
        /// The deepest of its parents that exists.
        nearest: PathBuf,
        /// What the folder could have been meant to be.
        hint: Option<String>,
    },
    /// A folder could not be listed.
    #[error("cannot read folder `{}`: {reason}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// There is no image in a subset's folder.
    #[error("no images found in `{}`: looked for {extensions} there and in the folders within, and saw {saw}", .path.display())]
    NoImages {
        /// The folder.
        path: PathBuf,
        /// The endings looked for.
        extensions: String,
        /// What was there instead.
        saw: String,
    },
    /// A file that holds or names images is not what it should be.
    #[error("`{}`{}: {reason}", .path.display(), .line.map(|line| format!(":{line}")).unwrap_or_default())]
    SourceFile {
        /// The file.
        path: PathBuf,
        /// Line in it, counted from 1.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
        /// The way out.
        hint: Option<String>,
    },
    /// `[[data.subsets]]` is absent.
    #[error("there is no data to train on: `data.subsets` is empty")]
    NoSubsets,
    /// Every image was dropped.
    #[error("none of the {found} images can be used:{}", list(.dropped))]
    NothingLeft {
        /// Images found.
        found: usize,
        /// Why each was dropped.
        dropped: Vec<ImageProblem>,
    },
    /// More than one image in a hundred cannot be read.
    #[error("{} of {found} images cannot be read:{}", .unreadable.len(), list(.unreadable))]
    TooManyUnreadable {
        /// Images found.
        found: usize,
        /// Which, and why.
        unreadable: Vec<ImageProblem>,
    },
    /// Images without a caption.
    #[error("{missing} of {found} images have no caption, the first is `{}`", .first.display())]
    MissingCaptions {
        /// How many.
        missing: usize,
        /// Images found.
        found: usize,
        /// The first of them.
        first: PathBuf,
        /// The way out.
        hint: String,
    },
    /// Images without an image that belongs to them.
    #[error("{missing} of {found} images have no `{column}` image, the first is `{}`", .first.display())]
    MissingExtraImages {
        /// What the missing images are.
        column: String,
        /// How many lack theirs.
        missing: usize,
        /// How many images there are to have one.
        found: usize,
        /// The first without.
        first: PathBuf,
        /// The way out.
        hint: String,
    },
    /// Captions that are not text.
    #[error("{} caption files cannot be read:{}", .captions.len(), list(.captions))]
    Captions {
        /// Which, and why.
        captions: Vec<ImageProblem>,
    },
    /// A size that makes no buckets.
    #[error("`{key}`: {message}")]
    Bucketing {
        /// The key of the configuration.
        key: &'static str,
        /// What is wrong with its value.
        message: String,
        /// The way out.
        hint: String,
    },
    /// The batch is larger than the data.
    #[error("`data.batch_size` is {batch_size}, but {what}")]
    BatchTooLarge {
        /// The batch size of the configuration.
        batch_size: usize,
        /// What there is instead.
        what: String,
        /// The way out.
        hint: String,
    },
    /// Regularization images without any other beside them.
    #[error("there are only regularization images of the size and batch of those in `{}`", .path.display())]
    OnlyRegularization {
        /// The folder of the first of them.
        path: PathBuf,
    },
    /// A process that is not there.
    #[error("there is no process {rank} among {world}")]
    NoSuchRank {
        /// Its number, from 0.
        rank: usize,
        /// How many there are.
        world: usize,
    },
    /// Nothing can be held out of the training images.
    #[error("`validation.split`: {what}")]
    NoSplit {
        /// Why not.
        what: String,
    },
    /// Nothing of a batch can be read, and nothing of its bucket could stand in.
    #[error("no image of bucket {} × {} can be read any more:{}", .bucket.0, .bucket.1, list(.unreadable))]
    BucketUnreadable {
        /// The bucket's size.
        bucket: (usize, usize),
        /// Everything that could not be read so far.
        unreadable: Vec<ImageProblem>,
    },
    /// The disk does not give an image, which may be as it should.
    #[error("cannot read `{}`: {reason}", .path.display())]
    Disk {
        /// The image.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A fault of this program, while it read an image.
    #[error("`{}`: the program gave up while it read this image, which is a fault of the program", .path.display())]
    Panicked {
        /// The image.
        path: PathBuf,
    },
    /// A fault of this program, while it made a batch.
    #[error("{what}; this is a fault of the program")]
    Internal {
        /// What happened.
        what: String,
    },
    /// Several of the above at once.
    #[error("{}", join(.0))]
    Several(Vec<DataError>),
}

impl DataError {
    /// A value of the configuration that makes no buckets.
    pub(crate) fn bucketing(key: &'static str, message: &str, hint: &str) -> Self {
        DataError::Bucketing { key, message: message.to_owned(), hint: hint.to_owned() }
    }

    /// The same for a subset with settings of its own.
    pub(crate) fn of_images_in(mut self, folder: &Path) -> Self {
        if let DataError::Bucketing { message, .. } = &mut self {
            *message += &format!("; so for `{}`", folder.display());
        }
        self
    }

    /// A file that holds or names images is not what it should be.
    pub(crate) fn source_file(path: &Path, line: Option<usize>, reason: impl Into<String>) -> Self {
        DataError::SourceFile { path: path.to_owned(), line, reason: reason.into(), hint: None }
    }

    /// The same with a way out, where this kind of error has none of its own.
    pub(crate) fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let DataError::SourceFile { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// Nothing, the one, or all of them.
    pub(crate) fn all(mut errors: Vec<DataError>) -> Result<(), DataError> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(DataError::Several(errors)),
        }
    }

    /// Every single error, `Several` taken apart.
    pub fn each(&self) -> Vec<&DataError> {
        match self {
            DataError::Several(errors) => errors.iter().flat_map(DataError::each).collect(),
            one => vec![one],
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            DataError::NoFolder { hint, .. } => {
                Some(hint.clone().unwrap_or_else(|| "a relative path starts at the file it is written in".to_owned()))
            }
            DataError::SourceFile { hint, .. } => hint.clone(),
            DataError::NoImages { .. } => Some("`path` of a subset is the folder that holds the images".to_owned()),
            DataError::NoSubsets => Some("add `[[data.subsets]]` with `path = \"FOLDER\"`".to_owned()),
            DataError::TooManyUnreadable { .. } => {
                Some("replace or delete these files; up to 1 in 100 is left out with a warning".to_owned())
            }
            DataError::MissingCaptions { hint, .. }
            | DataError::MissingExtraImages { hint, .. }
            | DataError::Bucketing { hint, .. }
            | DataError::BatchTooLarge { hint, .. } => Some(hint.clone()),
            DataError::OnlyRegularization { .. } => Some(
                "give the subset the `resolution`, `batch_size` and `bucketing` of the images it goes with".to_owned(),
            ),
            DataError::NoSuchRank { world, .. } => match world {
                0 => Some("a run has at least one process".to_owned()),
                _ => Some(format!("processes are numbered from 0 to {}", world - 1)),
            },
            DataError::NoSplit { .. } => Some("leave out `validation.split`, or add images".to_owned()),
            DataError::Captions { .. } => Some("captions are UTF-8 text, at most 64 KiB".to_owned()),
            DataError::Panicked { .. } => Some("the run can go on without this image until that is mended".to_owned()),
            DataError::Disk { .. } => Some(
                "the disk refused it twice; start again when it can be read: the run goes on where it was".to_owned(),
            ),
            DataError::Folder { .. }
            | DataError::NothingLeft { .. }
            | DataError::BucketUnreadable { .. }
            | DataError::Internal { .. }
            | DataError::Several(_) => None,
        }
    }
}

/// Files that are named one by one; a list of thousands helps nobody.
pub(crate) const SHOWN: usize = 20;

/// Files on lines of their own.
fn list(problems: &[ImageProblem]) -> String {
    let mut text: String = problems.iter().take(SHOWN).map(|problem| format!("\n  {problem}")).collect();
    if problems.len() > SHOWN {
        text += &format!("\n  … and {} more", problems.len() - SHOWN);
    }
    text
}

fn join(errors: &[DataError]) -> String {
    errors.iter().map(DataError::to_string).collect::<Vec<_>>().join("\n")
}
