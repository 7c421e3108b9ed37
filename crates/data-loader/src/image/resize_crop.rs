//! Scaling an image to cover its bucket, and cutting the bucket out of it.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use crate::buckets::Size;

/// The image at another size: Lanczos where it grows, the average of the area a pixel covers where it shrinks (kohya's choice:
/// PIL's Lanczos up, OpenCV's area down).
pub(crate) fn resize(image: RgbImage, size: Size) -> Result<RgbImage, String> {
    let from = (image.width() as usize, image.height() as usize);
    if from == size {
        return Ok(image);
    }
    let grows = from.0 < size.0 || from.1 < size.1;
    // A box filter whose support grows with the scale is the exact average over a pixel's area.
    let filter = if grows { FilterType::Lanczos3 } else { FilterType::Box };
    let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3);
    let source = source.map_err(|e| e.to_string())?;
    let mut target = Image::new(size.0 as u32, size.1 as u32, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| e.to_string())?;
    RgbImage::from_raw(size.0 as u32, size.1 as u32, target.into_vec())
        .ok_or_else(|| "the scaled image has an unexpected size".to_owned())
}

/// The part of `size` whose upper left corner is at `offset`.
pub(crate) fn crop(image: RgbImage, offset: Size, size: Size) -> RgbImage {
    if (image.width() as usize, image.height() as usize) == size {
        return image;
    }
    image::imageops::crop_imm(&image, offset.0 as u32, offset.1 as u32, size.0 as u32, size.1 as u32).to_image()
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn shrinking_averages_the_area() {
        let checks = RgbImage::from_fn(8, 8, |x, y| Rgb([if (x + y) % 2 == 0 { 255 } else { 0 }; 3]));
        let small = resize(checks, (2, 4)).unwrap();
        assert!(small.pixels().all(|p| p.0.iter().all(|&v| v == 127 || v == 128)), "{small:?}");
        let halves = RgbImage::from_fn(8, 4, |x, _| Rgb([if x < 4 { 200 } else { 10 }, 3, 4]));
        assert_eq!(resize(halves, (2, 1)).unwrap().into_raw(), [200, 3, 4, 10, 3, 4]);
    }

    #[test]
    fn enlarging_is_lanczos() {
        let edge = RgbImage::from_fn(8, 8, |x, _| Rgb([if x < 4 { 50 } else { 200 }; 3]));
        let large = resize(edge, (32, 32)).unwrap();
        assert_eq!(large.get_pixel(0, 0).0, [50; 3]);
        assert_eq!(large.get_pixel(31, 31).0, [200; 3]);
        // Lanczos overshoots at an edge; a bilinear or box filter does not.
        assert!(large.pixels().any(|p| p.0[0] > 200) && large.pixels().any(|p| p.0[0] < 50));
    }

    #[test]
    fn the_wanted_size_is_returned_untouched() {
        let image = RgbImage::from_fn(5, 7, |x, y| Rgb([x as u8, y as u8, 9]));
        assert_eq!(resize(image.clone(), (5, 7)).unwrap(), image);
        assert_eq!(crop(image.clone(), (0, 0), (5, 7)), image);
    }

    #[test]
    fn crops_at_the_offset() {
        let image = RgbImage::from_fn(6, 5, |x, y| Rgb([x as u8, y as u8, 0]));
        let part = crop(image, (2, 1), (3, 2));
        assert_eq!(part.dimensions(), (3, 2));
        assert_eq!(part.get_pixel(0, 0).0, [2, 1, 0]);
        assert_eq!(part.get_pixel(2, 1).0, [4, 2, 0]);
    }
}
