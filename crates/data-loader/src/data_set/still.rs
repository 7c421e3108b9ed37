//! What decides the pixels of an image that looks the same each time, for those who keep something that was made from them.

use std::io;
use std::path::Path;

use sdtrain_recipe::{AlphaConfig, ResizeKernel};

use super::{DataSet, View};
use crate::image::Transform;
use crate::{content, image};

/// Counts the ways of making pixels. It goes up with every change of decoding or scaling that gives any image other pixels, so
/// that nothing made from the old ones is used any more. `tests/it/pixels.rs` pins what is made now, and fails where that changes.
pub const PIXELS_VERSION: u32 = 1;

/// How [`DataSet::load_image`] looks at an image: together with the image's bytes, all that decides its pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct StillView {
    /// `(width, height)` of the file, orientation applied.
    pub original_size: (usize, usize),
    /// `(width, height)` that the whole image is scaled to.
    pub resized: (usize, usize),
    /// `(left, top)` of what is cut out of it.
    pub corner: (usize, usize),
    /// `(width, height)` of what is cut out, before any mirroring.
    pub bucket: (usize, usize),
    /// How it is scaled.
    pub resize_kernel: ResizeKernel,
    /// What is shown where it is transparent.
    pub alpha: AlphaConfig,
    /// [`PIXELS_VERSION`].
    pub pixels_version: u32,
}

impl StillView {
    /// `(left, top)` of what is cut out of the scaled image as it is seen: mirrored with it where it is `flipped`.
    pub fn crop_offset(&self, flipped: bool) -> (usize, usize) {
        Transform { resized: self.resized, corner: self.corner, bucket: self.bucket, flipped }.crop_offset()
    }

    /// Whether the image loses its shape when it is scaled: its sides by other factors, beyond what rounding to whole pixels makes of
    /// one.
    pub fn is_squeezed(&self) -> bool {
        let ((width, height), (new_width, new_height)) = (self.original_size, self.resized);
        (new_width * height).abs_diff(new_height * width) > width + height
    }
}

impl DataSet {
    /// How an image is looked at where nothing about it is random.
    pub fn still_view(&self, image: usize) -> StillView {
        let own = &self.images[image];
        let (resized, bucket) = (own.placement.resized, own.placement.bucket);
        let view = View { flipped: false, random_crop: None, color_change: None };
        StillView {
            original_size: own.size,
            resized,
            corner: view.corner((resized.0 - bucket.0, resized.1 - bucket.1)),
            bucket,
            resize_kernel: self.subset_of(image).resize_kernel.unwrap_or(self.resize_kernel),
            alpha: self.alpha.clone(),
            pixels_version: PIXELS_VERSION,
        }
    }

    /// BLAKE3 of every image's bytes; none for one that cannot be read. Those of files that have not changed since an earlier call
    /// are remembered, by this and by other programs of the user, and not read again.
    pub fn image_digests(&self) -> Vec<Option<[u8; 32]>> {
        content::digests(&self.images, &self.subsets)
    }

    /// BLAKE3 of an image's bytes as they are stored now.
    pub fn image_digest(&self, image: usize) -> io::Result<[u8; 32]> {
        Ok(content::digest(&self.images[image].location.read()?))
    }

    /// Whether an image is turned or mirrored when it is read, because its file asks for that (EXIF). `false` where it cannot be
    /// looked at.
    pub fn is_turned(&self, image: usize) -> bool {
        image::look(&self.images[image].location).is_ok_and(|look| look.turned)
    }

    /// The image's file, where it is one by itself and not a part of a larger one.
    pub fn image_file(&self, image: usize) -> Option<&Path> {
        let location = &self.images[image].location;
        location.is_file().then(|| location.path())
    }
}
