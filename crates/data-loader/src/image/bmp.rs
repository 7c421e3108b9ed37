//! BMP: whether the file is long enough for its pixels.

use std::io::SeekFrom;

use image::ImageFormat;

use super::by_image_crate::ByImageCrate;
use super::jpeg::TRUNCATED;
use crate::source::ReadSeek;

pub(super) const BMP: ByImageCrate = ByImageCrate {
    format: ImageFormat::Bmp,
    name: "BMP",
    begins: |start| start.starts_with(b"BM"),
    is_animated: check,
};

/// Length of the headers of Windows 3 and later; OS/2's is shorter and has no compression.
const INFO_HEADER: u32 = 40;

/// Compares the length of the file with what the header says; a BMP never moves.
fn check(reader: &mut dyn ReadSeek) -> Result<bool, String> {
    let length = reader.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    reader.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    // 14 bytes of the file, of which the last 4 say where the pixels are, then the header of the image.
    let mut bytes = [0; 54];
    let available = length.min(54) as usize;
    reader.read_exact(&mut bytes[..available]).map_err(|_| TRUNCATED.to_owned())?;
    let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let long = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let pixels = u64::from(long(10));
    let is_info = long(14) >= INFO_HEADER;
    if available < if is_info { 54 } else { 26 } {
        return Err(TRUNCATED.to_owned());
    }
    let (width, height, bits, compression) = match is_info {
        true => (long(18), long(22).cast_signed().unsigned_abs(), short(28), long(30)),
        false => (u32::from(short(18)), u32::from(short(20)), short(24), 0),
    };
    let needed = match compression {
        // Rows of plain pixels, each filled up to four bytes; 3 and 6 say which bits are which colour.
        0 | 3 | 6 => (u64::from(width) * u64::from(bits)).div_ceil(32).saturating_mul(4 * u64::from(height)),
        // Runs, whose length a header may leave out.
        _ => u64::from(long(34)),
    };
    match length < pixels.saturating_add(needed) {
        true => Err(TRUNCATED.to_owned()),
        false => Ok(false),
    }
}
