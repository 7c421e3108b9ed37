//! Where examples come from.

mod beside;
mod columns;
mod dreambooth;
mod image_folder;
mod kept_captions;
mod keys;
mod kohya_metadata;
mod location;
mod metadata;
mod parquet;
mod remote;
mod shards;
mod table;
mod tar;
mod unnamed;
mod walk;
mod webdataset;

use std::collections::BTreeMap;
use std::path::PathBuf;

use sdtrain_recipe::{DataConfig, SourceFormat, Subset};

pub use self::parquet::Parquet;
pub use image_folder::{EXTENSIONS, ImageFolder};
pub(crate) use keys::unread;
pub use kohya_metadata::KohyaMetadata;
pub(crate) use location::ReadSeek;
pub use location::{Container, ImageLocation};
use location::{open_regular, read_regular};
pub use metadata::Metadata;
pub use sdtrain_recipe::CONDITIONING_IMAGE;
pub use webdataset::Webdataset;

use crate::{DataError, ImageProblem};

/// A kind of source: how it is recognised, and how it is made of a subset.
pub struct SourceKind {
    /// Its name in a configuration.
    pub format: SourceFormat,
    /// Whether a subset that does not say its `format` is of this kind.
    pub recognises: fn(&Subset) -> bool,
    /// The source; what is wrong with it comes out when it lists its examples.
    pub open: fn(&Subset) -> Box<dyn ExampleSource>,
}

/// Every kind of source; of several that recognise a subset the first one counts.
pub const SOURCES: &[SourceKind] =
    &[kohya_metadata::KIND, metadata::KIND, parquet::KIND, webdataset::KIND, image_folder::KIND];

/// The configuration with files in the place of addresses, fetched where they are not there, and with each folder of DreamBooth
/// folders replaced by the subsets it stands for; and what to say about it.
pub(crate) fn expand(config: &DataConfig) -> Result<(DataConfig, Vec<String>), DataError> {
    let config = remote::fetched(config)?;
    dreambooth::expand(&config)
}

/// The source of a subset: what its `format` says, or what its path looks like.
pub fn open_source(subset: &Subset) -> Box<dyn ExampleSource> {
    (kind_of(subset).open)(subset)
}

/// The kind of source that a subset is.
pub(crate) fn kind_of(subset: &Subset) -> &'static SourceKind {
    SOURCES
        .iter()
        .find(|kind| match subset.format {
            SourceFormat::Auto => (kind.recognises)(subset),
            format => kind.format == format,
        })
        // What a folder of folders consists of are image folders.
        .unwrap_or(&image_folder::KIND)
}

/// Sorts by the bytes of the path, so that no language setting and no file system decides what is trained when.
fn sort_by_path(examples: &mut [SourceExample]) {
    examples.sort_by(|a, b| {
        a.image.path().as_os_str().as_encoded_bytes().cmp(b.image.path().as_os_str().as_encoded_bytes())
    });
}

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The examples, sorted.
    pub examples: Vec<SourceExample>,
    /// Images that are named or stored but cannot be had, with the reason; they count as images that cannot be read.
    pub rejected: Vec<ImageProblem>,
    /// What the loss of an image is multiplied by, by its path; those that are not named here have 1.
    pub loss_weights: BTreeMap<PathBuf, f64>,
    /// Captions that could not be read; their examples are listed without one.
    pub broken_captions: Vec<ImageProblem>,
    /// Caption files that belong to no image.
    pub captions_without_image: Vec<PathBuf>,
    /// Masks and the like that belong to no image.
    pub extra_images_without_image: Vec<PathBuf>,
    /// What else might have been meant, for the message about missing captions: other endings that files beside the images have.
    pub other_endings: Vec<String>,
    /// What to do where captions are missing, if the source knows better than to put files beside the images.
    pub caption_hint: Option<String>,
    /// Things that may not be meant.
    pub warnings: Vec<String>,
}

/// A place that examples come from.
pub trait ExampleSource {
    /// Lists every example with its caption; reads no image.
    fn list(&self) -> Result<Listing, DataError>;
}
