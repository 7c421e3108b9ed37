//! Single images and captions as a run would see them, for programs that look at a data set rather than train on it.

use image::RgbImage;
use sdtrain_recipe::Subset;

use crate::source::{ExampleSource, ImageFolder, ImageLocation, Listing, SourceCaption};
use crate::{DataError, Placement, caption, data_set, image as pixels, scan};

/// Everything a subset holds.
pub fn list(subset: &Subset) -> Result<Listing, DataError> {
    ImageFolder { path: subset.path.clone(), caption_extension: subset.caption_extension.clone() }.list()
}

/// `(width, height)` as the image is looked at, from its header; or why a run would not use it.
pub fn read_size(image: &ImageLocation) -> Result<(usize, usize), String> {
    pixels::read_size(image)
}

/// The whole image in 8-bit RGB, as a run decodes it; or why it cannot be decoded.
pub fn decode(image: &ImageLocation) -> Result<RgbImage, String> {
    pixels::decode(image)
}

/// The image at another size.
pub fn resize(image: RgbImage, size: (usize, usize)) -> Result<RgbImage, String> {
    pixels::resize(image, size)
}

/// The part of the image that a run without random crops trains on.
pub fn cut(image: RgbImage, placement: Placement) -> Result<RgbImage, String> {
    let Placement { bucket, resized } = placement;
    let offset = ((resized.0 - bucket.0) / 2, (resized.1 - bucket.1) / 2);
    Ok(pixels::crop(pixels::resize(image, resized)?, offset, bucket))
}

/// The caption with prefix and suffix, nothing dropped and nothing shuffled.
pub fn plain_caption(captions: &[SourceCaption], subset: &Subset) -> String {
    caption::of_visit(captions, &data_set::without_chance(subset), 0, 0, 0)
}

/// Whether a run refuses to start for so many unreadable images among those found.
pub fn is_too_many_unreadable(unreadable: usize, found: usize) -> bool {
    scan::too_many(unreadable, found)
}
