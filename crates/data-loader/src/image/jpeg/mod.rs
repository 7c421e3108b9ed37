//! JPEG: strict about its end, with inks where it was made for print.

mod markers;

use std::io::Cursor;

use image::{DynamicImage, GrayImage, RgbImage};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::format::{Decoded, Format, Header, LONGEST_SIDE, Pixels};
use crate::source::ReadSeek;
use markers::Depth;
pub(super) use markers::TRUNCATED;

pub(super) struct Jpeg;

impl Format for Jpeg {
    fn name(&self) -> &'static str {
        "JPEG"
    }

    fn begins(&self, start: &[u8]) -> bool {
        start.starts_with(&[0xFF, 0xD8, 0xFF])
    }

    fn look(&self, file: &mut dyn ReadSeek) -> Result<Header, String> {
        markers::check(file, Depth::Ends)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Decoded, String> {
        let header = markers::check(&mut Cursor::new(bytes), Depth::Whole)?;
        header.size()?;
        let options = DecoderOptions::default()
            .set_strict_mode(false)
            .set_max_width(LONGEST_SIDE as usize)
            .set_max_height(LONGEST_SIDE as usize);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        decoder.decode_headers().map_err(describe)?;
        let stored = decoder.input_colorspace().ok_or("has no colour components")?;
        // Inks are left as they are, for only their profile says which colours they make.
        let wanted = match stored {
            ColorSpace::Luma | ColorSpace::CMYK | ColorSpace::YCCK => stored,
            _ => ColorSpace::RGB,
        };
        decoder.set_options(options.jpeg_set_out_colorspace(wanted));
        let profile = decoder.icc_profile();
        let samples = decoder.decode().map_err(describe)?;
        let (width, height) = (header.width, header.height);
        let other_size = || "has a frame of another size than its header says".to_owned();
        let pixels = match wanted {
            ColorSpace::Luma => {
                let grey = GrayImage::from_raw(width, height, samples).ok_or_else(other_size)?;
                Pixels::Light(DynamicImage::ImageLuma8(grey))
            }
            ColorSpace::CMYK | ColorSpace::YCCK => {
                if samples.len() != width as usize * height as usize * 4 {
                    return Err(other_size());
                }
                Pixels::Ink { width, height, cmyk: inks(samples, wanted == ColorSpace::YCCK) }
            }
            _ => Pixels::Light(DynamicImage::ImageRgb8(
                RgbImage::from_raw(width, height, samples).ok_or_else(other_size)?,
            )),
        };
        Ok(Decoded { pixels, profile, orientation: header.orientation })
    }
}

/// Amounts of ink, 0 for none. Files hold them inverted, as Adobe's programs began and all others followed; YCCK holds the
/// first three, inverted once more, as luma and chroma (Adobe technical note 5116).
fn inks(mut samples: Vec<u8>, ycck: bool) -> Vec<u8> {
    for pixel in samples.chunks_exact_mut(4) {
        let [a, b, c, k] = [pixel[0], pixel[1], pixel[2], pixel[3]];
        let cmy = if ycck {
            let (y, cb, cr) = (f32::from(a), f32::from(b) - 128.0, f32::from(c) - 128.0);
            // ITU-T T.871, section 7. The conversion to `u8` rounds and saturates.
            [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb].map(|v| (v + 0.5) as u8)
        } else {
            [255 - a, 255 - b, 255 - c]
        };
        pixel[..3].copy_from_slice(&cmy);
        pixel[3] = 255 - k;
    }
    samples
}

fn describe(error: zune_jpeg::errors::DecodeErrors) -> String {
    format!("{error:?}").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inks_come_from_both_ways_to_store_them() {
        assert_eq!(inks(vec![255, 0, 200, 255], false), [0, 255, 55, 0]);
        // Grey chroma: the luma is the ink itself, inverted twice.
        assert_eq!(inks(vec![200, 128, 128, 0], true), [200, 200, 200, 255]);
    }
}
