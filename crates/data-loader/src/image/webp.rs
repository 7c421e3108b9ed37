//! WebP: its length, and whether it moves.

use std::io::SeekFrom;

use image::ImageFormat;

use super::by_image_crate::ByImageCrate;
use super::jpeg::TRUNCATED;
use crate::source::ReadSeek;

pub(super) const WEBP: ByImageCrate = ByImageCrate {
    format: ImageFormat::WebP,
    name: "WebP",
    begins: |start| start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP"),
    is_animated: check,
};

/// Makes sure that the file is as long as it says; whether it is an animation.
fn check(reader: &mut dyn ReadSeek) -> Result<bool, String> {
    let length = reader.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    reader.seek(SeekFrom::Start(4)).map_err(|e| e.to_string())?;
    // The length of everything behind these 8 bytes, `WEBP`, and the first chunk: its name, its length, flags.
    let mut start = [0; 17];
    reader.read_exact(&mut start).map_err(|_| TRUNCATED.to_owned())?;
    let [l0, l1, l2, l3, _, _, _, _, chunk @ .., _, _, _, _, flags] = start;
    if length < u64::from(u32::from_le_bytes([l0, l1, l2, l3])) + 8 {
        return Err(TRUNCATED.to_owned());
    }
    const ANIMATION: u8 = 0x02;
    Ok(&chunk == b"VP8X" && flags & ANIMATION != 0)
}
