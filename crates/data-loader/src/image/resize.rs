//! Scaling with the kernels that users know by name.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{GrayImage, RgbImage};
use sdtrain_recipe::ResizeKernel;

use crate::buckets::Size;

/// The image at another size.
pub(super) fn resize(image: RgbImage, size: Size, kernel: ResizeKernel) -> Result<RgbImage, String> {
    let from = (image.width() as usize, image.height() as usize);
    if from == size {
        return Ok(image);
    }
    let grows = from.0 < size.0 || from.1 < size.1;
    let algorithm = match kernel {
        // PIL's Lanczos up, OpenCV's area down.
        ResizeKernel::Auto if grows => ResizeAlg::Convolution(FilterType::Lanczos3),
        // A box filter whose support grows with the scale is the exact average over a pixel's area.
        ResizeKernel::Auto | ResizeKernel::Area => ResizeAlg::Convolution(FilterType::Box),
        ResizeKernel::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
        ResizeKernel::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        ResizeKernel::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        ResizeKernel::Nearest => ResizeAlg::Nearest,
    };
    let pixels = resize_raw(from, image.as_raw(), size, PixelType::U8x3, algorithm)?;
    RgbImage::from_raw(size.0 as u32, size.1 as u32, pixels).ok_or_else(unexpected)
}

/// The mask at another size: the average of the area where it shrinks, and linear where it grows, which invents no weight.
pub(super) fn resize_mask(mask: GrayImage, size: Size) -> Result<GrayImage, String> {
    let from = (mask.width() as usize, mask.height() as usize);
    if from == size {
        return Ok(mask);
    }
    let grows = from.0 < size.0 || from.1 < size.1;
    let filter = if grows { FilterType::Bilinear } else { FilterType::Box };
    let pixels = resize_raw(from, mask.as_raw(), size, PixelType::U8, ResizeAlg::Convolution(filter))?;
    GrayImage::from_raw(size.0 as u32, size.1 as u32, pixels).ok_or_else(unexpected)
}

fn resize_raw(from: Size, pixels: &[u8], to: Size, kind: PixelType, algorithm: ResizeAlg) -> Result<Vec<u8>, String> {
    let source = ImageRef::new(from.0 as u32, from.1 as u32, pixels, kind).map_err(|e| e.to_string())?;
    let mut target = Image::new(to.0 as u32, to.1 as u32, kind);
    let options = ResizeOptions::new().resize_alg(algorithm);
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| e.to_string())?;
    Ok(target.into_vec())
}

fn unexpected() -> String {
    "the scaled image has an unexpected size".to_owned()
}

#[cfg(test)]
mod tests {
    use image::{Luma, Rgb};

    use super::*;

    #[test]
    fn shrinking_averages_the_area() {
        let checks = RgbImage::from_fn(8, 8, |x, y| Rgb([if (x + y) % 2 == 0 { 255 } else { 0 }; 3]));
        let small = resize(checks, (2, 4), ResizeKernel::Auto).unwrap();
        assert!(small.pixels().all(|p| p.0.iter().all(|&v| v == 127 || v == 128)), "{small:?}");
        let halves = RgbImage::from_fn(8, 4, |x, _| Rgb([if x < 4 { 200 } else { 10 }, 3, 4]));
        assert_eq!(resize(halves, (2, 1), ResizeKernel::Auto).unwrap().into_raw(), [200, 3, 4, 10, 3, 4]);
    }

    #[test]
    fn enlarging_is_lanczos() {
        let edge = RgbImage::from_fn(8, 8, |x, _| Rgb([if x < 4 { 50 } else { 200 }; 3]));
        let large = resize(edge, (32, 32), ResizeKernel::Auto).unwrap();
        assert_eq!(large.get_pixel(0, 0).0, [50; 3]);
        assert_eq!(large.get_pixel(31, 31).0, [200; 3]);
        // Lanczos overshoots at an edge; a bilinear or box filter does not.
        assert!(large.pixels().any(|p| p.0[0] > 200) && large.pixels().any(|p| p.0[0] < 50));
    }

    #[test]
    fn masks_keep_their_range() {
        let edge = GrayImage::from_fn(8, 8, |x, _| Luma([if x < 4 { 0 } else { 255 }]));
        let large = resize_mask(edge.clone(), (32, 32)).unwrap();
        assert_eq!((large.get_pixel(0, 0).0, large.get_pixel(31, 0).0), ([0], [255]));
        assert!(large.as_raw().windows(2).take(31).all(|pair| pair[0] <= pair[1]), "{large:?}");
        assert_eq!(resize_mask(edge, (1, 1)).unwrap().into_raw(), [128]);
    }

    #[test]
    fn the_wanted_size_is_returned_untouched() {
        let image = RgbImage::from_fn(5, 7, |x, y| Rgb([x as u8, y as u8, 9]));
        assert_eq!(resize(image.clone(), (5, 7), ResizeKernel::Lanczos).unwrap(), image);
    }
}
