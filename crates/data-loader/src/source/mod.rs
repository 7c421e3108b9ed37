//! Where examples come from.

mod image_folder;

use std::path::PathBuf;

pub use image_folder::{EXTENSIONS, ImageFolder};

use crate::{DataError, ImageProblem};

/// One image with its caption, before anything of the image was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceExample {
    /// The image's file.
    pub path: PathBuf,
    /// Its own caption; `None` where it has none, which is not the same as an empty one.
    pub caption: Option<String>,
}

/// Everything a source holds, in an order that only depends on what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The examples, sorted.
    pub examples: Vec<SourceExample>,
    /// Captions that could not be read; their examples are listed without one.
    pub broken_captions: Vec<ImageProblem>,
    /// Caption files that belong to no image.
    pub captions_without_image: Vec<PathBuf>,
    /// What else might have been meant, for the message about missing captions: other endings that files beside the images have.
    pub other_endings: Vec<String>,
}

/// A place that examples come from.
pub trait ExampleSource {
    /// Lists every example with its caption; reads no image.
    fn list(&self) -> Result<Listing, DataError>;
}
