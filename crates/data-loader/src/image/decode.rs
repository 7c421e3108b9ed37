//! One image file to 8-bit RGB: orientation applied, transparency over white, 16 bits scaled.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Rgb, RgbImage};

use super::{header, jpeg};
use crate::source::ImageLocation;

/// Decodes the whole file, or says why it cannot be.
pub(crate) fn decode(image: &ImageLocation) -> Result<RgbImage, String> {
    let bytes = image.read().map_err(|e| e.to_string())?;
    // Some decoders panic on hostile files; one such file must not end the run.
    catch_unwind(AssertUnwindSafe(|| decode_bytes(&bytes)))
        .unwrap_or_else(|_| Err("is so broken that its decoder gave up".to_owned()))
}

fn decode_bytes(bytes: &[u8]) -> Result<RgbImage, String> {
    let mut cursor = Cursor::new(bytes);
    let format = header::format_of(&mut cursor)?;
    let mut turn = None;
    if format == ImageFormat::Jpeg {
        let header = jpeg::check(&mut cursor, jpeg::Depth::Whole)?;
        turn = Some(header.orientation);
    } else {
        header::check_end(&mut cursor, format)?;
    }
    cursor.set_position(0);
    let mut reader = ImageReader::with_format(cursor, format);
    reader.limits(header::limits());
    let mut decoder = reader.into_decoder().map_err(header::describe)?;
    let (width, height) = decoder.dimensions();
    header::sensible(width, height, Orientation::NoTransforms)?;
    let turn = turn.unwrap_or_else(|| decoder.orientation().unwrap_or(Orientation::NoTransforms));
    let mut image = DynamicImage::from_decoder(decoder).map_err(header::describe)?;
    image.apply_orientation(turn);
    Ok(over_white(image))
}

/// What a viewer with a white background shows.
fn over_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, alpha] = image.get_pixel(x, y).0;
        let over = |value: u8| {
            let (value, alpha) = (u32::from(value), u32::from(alpha));
            ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        };
        Rgb([over(r), over(g), over(b)])
    })
}
