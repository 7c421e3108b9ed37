//! What can be told of an image file without decoding it: its size, and that its end is there.

use std::io::{Read, Seek, SeekFrom};

use image::metadata::Orientation;
use image::{ImageDecoder, ImageFormat, ImageReader, Limits};

use super::jpeg::{self, TRUNCATED};
use super::png;
use crate::buckets::Size;
use crate::source::ImageLocation;

/// Longest side that is decoded.
const LONGEST_SIDE: u32 = 16_384;
/// Most pixels that are decoded; a small file can claim any number.
const MOST_PIXELS: u64 = 178_000_000;
/// Most memory one decoder may take.
const MOST_MEMORY: u64 = 1 << 30;

/// `(width, height)` as the image is looked at, that is with its orientation applied; or why it cannot be used.
pub(crate) fn read_size(location: &ImageLocation) -> Result<Size, String> {
    let mut file = location.open().map_err(|e| e.to_string())?;
    let format = format_of(&mut file)?;
    if format == ImageFormat::Jpeg {
        let header = jpeg::check(&mut file, jpeg::Depth::Ends)?;
        return sensible(header.width, header.height, header.orientation);
    }
    check_end(&mut file, format)?;
    file.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    let mut reader = ImageReader::with_format(file, format);
    reader.limits(limits());
    let mut decoder = reader.into_decoder().map_err(describe)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (width, height) = decoder.dimensions();
    sensible(width, height, orientation)
}

/// The format by the first bytes; the name of a file proves nothing.
pub(super) fn format_of<R: Read + Seek>(reader: &mut R) -> Result<ImageFormat, String> {
    let mut start = Vec::new();
    reader.take(32).read_to_end(&mut start).map_err(|e| e.to_string())?;
    reader.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    if start.is_empty() {
        return Err("is an empty file".to_owned());
    }
    let unknown = || {
        let shown: String = String::from_utf8_lossy(&start).chars().take(16).flat_map(char::escape_default).collect();
        format!("is not an image: it begins with `{shown}`")
    };
    let format = image::guess_format(&start).map_err(|_| unknown())?;
    if !format.reading_enabled() {
        return Err(format!("is {} inside, which is not supported", format.to_mime_type()));
    }
    Ok(format)
}

/// That the file reaches as far as it says, for the formats that say so; the others show it when they are decoded.
pub(super) fn check_end<R: Read + Seek>(reader: &mut R, format: ImageFormat) -> Result<(), String> {
    match format {
        ImageFormat::Png => png::check(reader),
        ImageFormat::WebP => {
            let length = reader.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
            reader.seek(SeekFrom::Start(4)).map_err(|e| e.to_string())?;
            let mut stated = [0; 4];
            reader.read_exact(&mut stated).map_err(|_| TRUNCATED.to_owned())?;
            // RIFF: the length of everything behind these 8 bytes.
            let stated = u64::from(u32::from_le_bytes(stated)) + 8;
            if length < stated { Err(TRUNCATED.to_owned()) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// What a decoder may take at most.
pub(super) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    limits.max_alloc = Some(MOST_MEMORY);
    limits
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

/// A decoder's error in one line.
pub(super) fn describe(error: image::ImageError) -> String {
    match error {
        image::ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => TRUNCATED.to_owned(),
        other => other.to_string().replace('\n', " "),
    }
}
