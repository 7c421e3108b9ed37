//! Single images and captions as a run would see them, for programs that look at a data set rather than train on it.

use image::RgbImage;
use sdtrain_recipe::{AlphaConfig, DataConfig, ResizeKernel, SourceFormat, Subset};

use crate::image::{self as pixels, Transform};
use crate::source::{self, ImageLocation, Listing, SourceCaption, SourceExample};
use crate::{DataError, Placement, caption, content, data_set, extra_images, scan};

/// The subsets of a data set, each folder of DreamBooth folders replaced by the subsets it stands for.
pub fn subsets(config: &DataConfig) -> Result<Vec<Subset>, DataError> {
    Ok(source::expand(config)?.0.subsets)
}

/// What a run would warn of before it starts, also where it would not start.
pub fn warnings(config: &DataConfig, bucket_step: usize) -> Result<Vec<String>, DataError> {
    data_set::warnings(config, bucket_step)
}

/// Everything a subset holds.
pub fn list(subset: &Subset) -> Result<Listing, DataError> {
    source::open_source(subset).list()
}

/// `(width, height)` as the image is looked at, from its header; or why a run would not use it.
pub fn read_size(image: &ImageLocation) -> Result<(usize, usize), String> {
    Ok(pixels::look(image)?.size)
}

/// What an image is by its first bytes, as a run recognises it: `JPEG`, `PNG`, `JPEG XL`; its name proves nothing. None where it is
/// nothing that is known.
pub fn format_name(image: &ImageLocation) -> Option<&'static str> {
    pixels::format_name(image)
}

/// Digest of an image's bytes: equal for copies, whatever they are called. `validation.split` goes by the same.
pub fn content_digest(bytes: &[u8]) -> [u8; 32] {
    content::digest(bytes)
}

/// How the images of a subset are stored, found out where its `format` does not say.
pub fn format(subset: &Subset) -> SourceFormat {
    source::kind_of(subset).format
}

/// The whole image in 8-bit RGB, as a run decodes it; or why it cannot be decoded.
pub fn decode(image: &ImageLocation, alpha: &AlphaConfig) -> Result<RgbImage, String> {
    Ok(pixels::decode(image, alpha)?.rgb)
}

/// Whether everything that belongs to an image of this size, its mask or a control image, can be opened and has its shape; or why
/// a run would not use the image.
pub fn look_at_extra_images(example: &SourceExample, size: (usize, usize)) -> Result<(), String> {
    extra_images::look_at(example, size)
}

/// Whether everything that belongs to an image can be decoded; or why a run would not use the image.
pub fn decode_extra_images(example: &SourceExample, alpha: &AlphaConfig) -> Result<(), String> {
    extra_images::decode(example, alpha)
}

/// The image at another size.
pub fn resize(image: RgbImage, size: (usize, usize)) -> Result<RgbImage, String> {
    Transform { resized: size, corner: (0, 0), bucket: size, flipped: false }.image(image, ResizeKernel::Auto)
}

/// The part of the image that a run without random crops trains on.
pub fn cut(image: RgbImage, placement: Placement, kernel: ResizeKernel) -> Result<RgbImage, String> {
    let Placement { bucket, resized } = placement;
    let corner = ((resized.0 - bucket.0) / 2, (resized.1 - bucket.1) / 2);
    Transform { resized, corner, bucket, flipped: false }.image(image, kernel)
}

/// The caption with prefix and suffix, nothing dropped and nothing shuffled.
pub fn plain_caption(captions: &[SourceCaption], subset: &Subset) -> String {
    caption::plain(captions, subset)
}

/// Every caption that the image can be trained on, each as long as it gets.
pub fn longest_captions(captions: &[SourceCaption], subset: &Subset) -> Vec<String> {
    caption::longest_of_each(captions, subset)
}

/// Whether a run refuses to start for so many unreadable images among those found.
pub fn is_too_many_unreadable(unreadable: usize, found: usize) -> bool {
    scan::too_many(unreadable, found)
}
