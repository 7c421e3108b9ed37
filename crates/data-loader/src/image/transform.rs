//! What happens to an image and, in step with it, to its mask and to every image that belongs to it.

use image::{GrayImage, RgbImage, imageops};
use sdtrain_recipe::ResizeKernel;

use super::resize::{resize, resize_mask};
use crate::buckets::Size;

/// Scaled, cut, and mirrored or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transform {
    /// `(width, height)` that the whole image is scaled to.
    pub resized: Size,
    /// `(left, top)` of what is cut out of it, before it is mirrored.
    pub corner: Size,
    /// `(width, height)` of what is cut out.
    pub bucket: Size,
    /// Whether that is mirrored left to right.
    pub flipped: bool,
}

impl Transform {
    /// The image as the network sees it.
    pub fn image(&self, image: RgbImage, kernel: ResizeKernel) -> Result<RgbImage, String> {
        let mut image = resize(image, self.resized, kernel)?;
        if self.resized != self.bucket {
            let ((left, top), (width, height)) = (self.corner, self.bucket);
            image = imageops::crop_imm(&image, left as u32, top as u32, width as u32, height as u32).to_image();
        }
        if self.flipped {
            imageops::flip_horizontal_in_place(&mut image);
        }
        Ok(image)
    }

    /// The mask of the same places.
    pub fn mask(&self, mask: GrayImage) -> Result<GrayImage, String> {
        let mask = resize_mask(mask, self.resized)?;
        let ((left, top), (width, height)) = (self.corner, self.bucket);
        let mut mask = imageops::crop_imm(&mask, left as u32, top as u32, width as u32, height as u32).to_image();
        if self.flipped {
            imageops::flip_horizontal_in_place(&mut mask);
        }
        Ok(mask)
    }

    /// `(left, top)` of the crop in the scaled image as it is seen, that is mirrored where the crop is.
    pub fn crop_offset(&self) -> Size {
        match self.flipped {
            false => self.corner,
            true => (self.resized.0 - self.bucket.0 - self.corner.0, self.corner.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{Luma, Rgb};

    use super::*;

    fn places(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 0]))
    }

    #[test]
    fn cuts_at_the_corner() {
        let transform = Transform { resized: (6, 5), corner: (2, 1), bucket: (3, 2), flipped: false };
        let part = transform.image(places(6, 5), ResizeKernel::Auto).unwrap();
        assert_eq!(part.dimensions(), (3, 2));
        assert_eq!(part.get_pixel(0, 0).0, [2, 1, 0]);
        assert_eq!(part.get_pixel(2, 1).0, [4, 2, 0]);
        assert_eq!(transform.crop_offset(), (2, 1));
    }

    #[test]
    fn a_crop_offset_is_that_of_the_mirrored_image() {
        let transform = Transform { resized: (6, 5), corner: (2, 1), bucket: (3, 2), flipped: true };
        let part = transform.image(places(6, 5), ResizeKernel::Auto).unwrap();
        assert_eq!(part.get_pixel(0, 0).0, [4, 1, 0]);
        let (left, top) = transform.crop_offset();
        let mirrored = imageops::flip_horizontal(&places(6, 5));
        assert_eq!(part, imageops::crop_imm(&mirrored, left as u32, top as u32, 3, 2).to_image());
    }

    #[test]
    fn a_mask_stays_in_step_with_its_image() {
        for flipped in [false, true] {
            let transform = Transform { resized: (12, 10), corner: (3, 1), bucket: (8, 8), flipped };
            let image = RgbImage::from_fn(24, 20, |x, y| Rgb([if x / 4 == y / 4 { 255 } else { 0 }; 3]));
            let mask = GrayImage::from_fn(24, 20, |x, y| Luma([image.get_pixel(x, y).0[0]]));
            let image = transform.image(image, ResizeKernel::Area).unwrap();
            let mask = transform.mask(mask).unwrap();
            assert!(image.pixels().zip(mask.as_raw()).all(|(pixel, weight)| pixel.0[0] == *weight));
        }
    }
}
