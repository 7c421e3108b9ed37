//! The file formats: how each is recognised, looked at without decoding, and decoded.

use std::io::{Read, SeekFrom};

use image::DynamicImage;
use image::metadata::Orientation;

use super::{avif, bmp, gif, jpeg, jxl, png, tiff, webp};
use crate::buckets::Size;
use crate::source::ReadSeek;

/// One file format.
pub(super) trait Format: Sync {
    /// Its name as people write it.
    fn name(&self) -> &'static str;

    /// Whether a file that begins like this is of this format; the name of a file proves nothing.
    fn begins(&self, start: &[u8]) -> bool;

    /// Size and what else stands in the header, and that the end of the file is there where that can be told without decoding.
    fn look(&self, file: &mut dyn ReadSeek) -> Result<Header, String>;

    /// The whole image; the first one where there are several.
    fn decode(&self, bytes: &[u8]) -> Result<Decoded, String>;
}

const FORMATS: &[&dyn Format] =
    &[&jpeg::Jpeg, &png::PNG, &webp::WEBP, &gif::GIF, &bmp::BMP, &tiff::TIFF, &jxl::JpegXl, &avif::Avif];

/// What a file says about its image before it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    /// Whether there are more images behind the first.
    pub animated: bool,
    /// Whether it has a colour profile that cannot be followed.
    pub ignores_profile: bool,
}

impl Header {
    /// The size as the image is looked at, if it is one that can be decoded.
    pub fn size(&self) -> Result<Size, String> {
        sensible(self.width, self.height, self.orientation)
    }
}

/// An image as it is stored: not turned, in the colours of its profile.
pub(super) struct Decoded {
    pub pixels: Pixels,
    pub profile: Option<Vec<u8>>,
    pub orientation: Orientation,
}

/// Pixels as they are stored.
pub(super) enum Pixels {
    /// Grey or red, green, blue; with transparency or without; of any depth.
    Light(DynamicImage),
    /// Four bytes a pixel: cyan, magenta, yellow, black; 0 is no ink.
    Ink { width: u32, height: u32, cmyk: Vec<u8> },
}

/// Longest side that is decoded.
pub(super) const LONGEST_SIDE: u32 = 16_384;
/// Most pixels that are decoded; a small file can claim any number.
const MOST_PIXELS: u64 = 178_000_000;
/// Most memory one decoder may take.
pub(super) const MOST_MEMORY: u64 = 1 << 30;

/// The format by the first bytes; the reader stands at the start again.
pub(super) fn of(reader: &mut dyn ReadSeek) -> Result<&'static dyn Format, String> {
    let mut start = Vec::new();
    Read::take(&mut *reader, 32).read_to_end(&mut start).map_err(|e| e.to_string())?;
    reader.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    if start.is_empty() {
        return Err("is an empty file".to_owned());
    }
    FORMATS.iter().find(|format| format.begins(&start)).copied().ok_or_else(|| {
        let shown: String = String::from_utf8_lossy(&start).chars().take(16).flat_map(char::escape_default).collect();
        format!("is not an image: it begins with `{shown}`")
    })
}

/// The size after turning, if it is one that can be decoded.
pub(super) fn sensible(width: u32, height: u32, orientation: Orientation) -> Result<Size, String> {
    if width == 0 || height == 0 {
        return Err(format!("says it has {width} × {height} pixels"));
    }
    if width.max(height) > LONGEST_SIDE || u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(format!(
            "{width} × {height} pixels are more than is read ({LONGEST_SIDE} a side, {} million in all)",
            MOST_PIXELS / 1_000_000
        ));
    }
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let turned = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
    let (width, height) = (width as usize, height as usize);
    Ok(if turned { (height, width) } else { (width, height) })
}
