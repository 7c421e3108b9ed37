//! Where examples come from.

mod beside;
mod image_folder;
mod location;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use image_folder::{EXTENSIONS, ImageFolder};
pub(crate) use location::ReadSeek;
pub use location::{Container, ImageLocation};

use crate::{DataError, ImageProblem};

/// One image with its captions, before anything of the image was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceExample {
    /// The image.
    pub image: ImageLocation,
    /// Its captions, at most one from each place that captions come from, by that place's number. None is not the same as
    /// an empty one.
    pub captions: Vec<SourceCaption>,
    /// Other images that belong to it, by column: a mask, a control image, the picture before an edit.
    pub extra_images: BTreeMap<String, ImageLocation>,
}

impl SourceExample {
    /// An image file with a caption, if it has one.
    pub fn of_file(path: PathBuf, caption: Option<String>) -> SourceExample {
        let captions = caption.into_iter().map(|text| SourceCaption { source: 0, text }).collect();
        SourceExample { image: ImageLocation::file(path), captions, extra_images: BTreeMap::new() }
    }
}

/// A caption as it is written, all of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceCaption {
    /// Which of the places that captions come from.
    pub source: usize,
    /// The text, without blanks around it.
    pub text: String,
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
    /// Masks and the like that belong to no image.
    pub extra_images_without_image: Vec<PathBuf>,
    /// What else might have been meant, for the message about missing captions: other endings that files beside the images have.
    pub other_endings: Vec<String>,
}

/// A place that examples come from.
pub trait ExampleSource {
    /// Lists every example with its caption; reads no image.
    fn list(&self) -> Result<Listing, DataError>;
}
