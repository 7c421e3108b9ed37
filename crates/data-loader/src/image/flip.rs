//! Mirroring left to right.

use image::RgbImage;

/// The image, mirrored.
pub(crate) fn flip(image: &RgbImage) -> RgbImage {
    image::imageops::flip_horizontal(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_left_to_right_and_only_that() {
        let image = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, 7]));
        let mirrored = flip(&image);
        assert_eq!(mirrored.get_pixel(0, 1).0, [2, 1, 7]);
        assert_eq!(mirrored.get_pixel(2, 0).0, [0, 0, 7]);
        assert_eq!(flip(&mirrored), image);
    }
}
