//! From an image file to pixels of the wanted size.

mod decode;
mod flip;
mod header;
mod jpeg;
mod png;
mod resize_crop;

pub(crate) use decode::decode;
pub(crate) use flip::flip;
pub(crate) use header::read_size;
pub(crate) use resize_crop::{crop, resize};

/// `[3, height, width]` from −1 to 1, as the autoencoder takes it, appended to `pixels`.
pub(crate) fn append_normalised(image: &::image::RgbImage, pixels: &mut Vec<f32>) {
    let raw = image.as_raw();
    for channel in 0..3 {
        pixels.extend(raw[channel..].iter().step_by(3).map(|&value| f32::from(value) / 127.5 - 1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_planes_from_minus_one_to_one() {
        let image = ::image::RgbImage::from_raw(2, 1, vec![0, 255, 51, 255, 0, 204]).unwrap();
        let mut pixels = Vec::new();
        append_normalised(&image, &mut pixels);
        assert_eq!(pixels, [-1.0, 1.0, 1.0, -1.0, -0.6, 0.6]);
    }
}
