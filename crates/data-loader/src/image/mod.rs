//! From an image file to pixels of the wanted size.
//!
//! ```text
//! format      first bytes ──────→ which format: look (header), decode
//! decode      bytes ────────────→ red, green, blue in sRGB, upright; transparency
//! transform   picture ──────────→ scaled, cut, mirrored; masks and other images in step
//! color       random changes of colour
//! ```

mod avif;
mod bmp;
mod by_image_crate;
mod color;
mod decode;
mod format;
mod gif;
mod jpeg;
mod jxl;
mod png;
mod profile;
mod resize;
mod tiff;
mod transform;
mod webp;

pub(crate) use color::ColorChange;
pub(crate) use decode::{Look, Picture, decode, decode_mask, format_name, look};
pub(crate) use transform::Transform;

/// `[3, height, width]` from −1 to 1, as the autoencoder takes it.
pub(crate) fn normalised(image: &::image::RgbImage) -> Vec<f32> {
    let raw = image.as_raw();
    let mut pixels = Vec::with_capacity(raw.len());
    for channel in 0..3 {
        pixels.extend(raw.chunks_exact(3).map(|pixel| f32::from(pixel[channel]) / 127.5 - 1.0));
    }
    pixels
}

/// `[height, width]` from 0 to 1.
pub(crate) fn weights(mask: &::image::GrayImage) -> Vec<f32> {
    mask.as_raw().iter().map(|&value| f32::from(value) / 255.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_planes_from_minus_one_to_one() {
        let image = ::image::RgbImage::from_raw(2, 1, vec![0, 255, 51, 255, 0, 204]).unwrap();
        assert_eq!(normalised(&image), [-1.0, 1.0, 1.0, -1.0, -0.6, 0.6]);
    }

    #[test]
    fn weights_are_from_zero_to_one() {
        let mask = ::image::GrayImage::from_raw(3, 1, vec![0, 51, 255]).unwrap();
        assert_eq!(weights(&mask), [0.0, 0.2, 1.0]);
    }
}
