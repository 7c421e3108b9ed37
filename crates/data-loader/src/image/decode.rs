//! One image file to 8 bits of red, green and blue as a screen shows them: turned upright, in sRGB.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage};
use sdtrain_recipe::AlphaConfig;

use super::format::{self, Decoded, Header, Pixels};
use super::profile;
use crate::buckets::Size;
use crate::source::ImageLocation;

/// What can be told of an image without decoding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// `(width, height)` as the image is looked at, that is with its orientation applied.
    pub size: Size,
    /// Whether only the first of several images will be read.
    pub animated: bool,
    /// Whether it is turned or mirrored when it is decoded.
    pub turned: bool,
    /// Whether it has a colour profile that cannot be followed, so that its colours are taken for those of sRGB.
    pub ignores_profile: bool,
}

/// A decoded image.
pub(crate) struct Picture {
    pub rgb: RgbImage,
    /// 0 where it is transparent.
    pub alpha: Option<GrayImage>,
}

/// Size and kind by the header, or why the image cannot be used.
pub(crate) fn look(location: &ImageLocation) -> Result<Look, String> {
    let mut file = location.open().map_err(|e| e.to_string())?;
    guarded(|| {
        let header: Header = format::of(&mut *file)?.look(&mut *file)?;
        let turned = header.orientation != Orientation::NoTransforms;
        let Header { animated, ignores_profile, .. } = header;
        Ok(Look { size: header.size()?, animated, turned, ignores_profile })
    })
}

/// What the file is, by its first bytes; none where it is nothing that is known, or cannot be opened.
pub(crate) fn format_name(location: &ImageLocation) -> Option<&'static str> {
    format::of(&mut *location.open().ok()?).ok().map(|format| format.name())
}

/// Decodes the whole file, or says why it cannot be.
pub(crate) fn decode(location: &ImageLocation, alpha: &AlphaConfig) -> Result<Picture, String> {
    let bytes = location.read().map_err(|e| e.to_string())?;
    guarded(|| {
        let Decoded { pixels, profile, orientation } = decode_bytes(&bytes)?;
        let (rgb, transparency) = to_srgb(pixels, profile.as_deref())?;
        let rgb = match &transparency {
            Some(transparency) if !alpha.ignore => over(rgb, transparency, alpha.background),
            _ => rgb,
        };
        let mut rgb = DynamicImage::ImageRgb8(rgb);
        rgb.apply_orientation(orientation);
        let transparency = transparency.map(|transparency| {
            let mut transparency = DynamicImage::ImageLuma8(transparency);
            transparency.apply_orientation(orientation);
            transparency.into_luma8()
        });
        Ok(Picture { rgb: rgb.into_rgb8(), alpha: transparency })
    })
}

/// Decodes a mask: the numbers of its first channel as they are stored, for they are no colours.
pub(crate) fn decode_mask(location: &ImageLocation) -> Result<GrayImage, String> {
    let bytes = location.read().map_err(|e| e.to_string())?;
    guarded(|| {
        let Decoded { pixels, orientation, .. } = decode_bytes(&bytes)?;
        let Pixels::Light(mut image) = pixels else {
            return Err("is a mask of inks (CMYK); a mask is grey".to_owned());
        };
        image.apply_orientation(orientation);
        if !image.color().has_color() {
            return Ok(image.into_luma8());
        }
        let image = image.into_rgb8();
        Ok(GrayImage::from_fn(image.width(), image.height(), |x, y| Luma([image.get_pixel(x, y).0[0]])))
    })
}

fn decode_bytes(bytes: &[u8]) -> Result<Decoded, String> {
    format::of(&mut Cursor::new(bytes))?.decode(bytes)
}

/// Some decoders panic on hostile files; one such file must not end the run.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err("is so broken that its decoder gave up".to_owned()))
}

/// Colours of sRGB, and the alpha channel if there is one.
fn to_srgb(pixels: Pixels, icc: Option<&[u8]>) -> Result<(RgbImage, Option<GrayImage>), String> {
    let image = match pixels {
        Pixels::Ink { width, height, cmyk } => {
            let rgb = RgbImage::from_raw(width, height, profile::cmyk_to_srgb(&cmyk, icc));
            return Ok((rgb.ok_or("has an unexpected size")?, None));
        }
        Pixels::Light(image) => image,
    };
    let is_grey = !image.color().has_color();
    let (mut rgb, alpha) = match image.color().has_alpha() {
        false => (image.into_rgb8(), None),
        true => {
            let image = image.into_rgba8();
            let (width, height) = image.dimensions();
            let rgb = RgbImage::from_fn(width, height, |x, y| {
                let [r, g, b, _] = image.get_pixel(x, y).0;
                Rgb([r, g, b])
            });
            let alpha = GrayImage::from_fn(width, height, |x, y| Luma([image.get_pixel(x, y).0[3]]));
            (rgb, Some(alpha))
        }
    };
    if let Some(icc) = icc {
        profile::rgb_to_srgb(&mut rgb, is_grey, icc);
    }
    Ok((rgb, alpha))
}

/// What is seen where the background shines through.
fn over(mut image: RgbImage, alpha: &GrayImage, background: [u8; 3]) -> RgbImage {
    for (pixel, alpha) in image.pixels_mut().zip(alpha.as_raw()) {
        let alpha = u32::from(*alpha);
        for (value, behind) in pixel.0.iter_mut().zip(background) {
            *value = ((u32::from(*value) * alpha + u32::from(behind) * (255 - alpha) + 127) / 255) as u8;
        }
    }
    image
}
