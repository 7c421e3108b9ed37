//! GIF: whether there is more than one frame.

use std::io::SeekFrom;

use image::ImageFormat;

use super::by_image_crate::ByImageCrate;
use super::jpeg::TRUNCATED;
use crate::source::ReadSeek;

pub(super) const GIF: ByImageCrate = ByImageCrate {
    format: ImageFormat::Gif,
    name: "GIF",
    begins: |start| start.starts_with(b"GIF87a") || start.starts_with(b"GIF89a"),
    is_animated: has_second_frame,
};

const IMAGE: u8 = 0x2C;
const EXTENSION: u8 = 0x21;

/// Walks the blocks up to the second image. A file that ends in its first one, or before it, is cut off.
fn has_second_frame(reader: &mut dyn ReadSeek) -> Result<bool, String> {
    let mut has_first = false;
    let mut walk = || {
        // Signature and version; width, height, flags, background, aspect.
        reader.seek(SeekFrom::Start(6)).ok()?;
        let [_, _, _, _, flags, _, _] = bytes(reader)?;
        skip_palette(reader, flags)?;
        loop {
            let [kind] = bytes(reader)?;
            match kind {
                IMAGE if has_first => return Some(true),
                IMAGE => {
                    // Left, top, width, height, flags; then, behind the palette, the size of the first code.
                    let [_, _, _, _, _, _, _, _, flags] = bytes(reader)?;
                    skip_palette(reader, flags)?;
                    let [_code_size] = bytes(reader)?;
                }
                EXTENSION => {
                    let [_label] = bytes(reader)?;
                }
                // The end, or no GIF any more, which decoding shows.
                _ => return Some(false),
            }
            skip_blocks(reader)?;
            has_first |= kind == IMAGE;
        }
    };
    match walk() {
        Some(is_animated) => Ok(is_animated),
        None if has_first => Ok(false),
        None => Err(TRUNCATED.to_owned()),
    }
}

fn skip_palette(reader: &mut dyn ReadSeek, flags: u8) -> Option<()> {
    if flags & 0x80 == 0 {
        return Some(());
    }
    reader.seek_relative(3 << ((flags & 7) + 1)).ok()
}

/// Blocks of up to 255 bytes, each behind its length; one of length 0 ends them.
fn skip_blocks(reader: &mut dyn ReadSeek) -> Option<()> {
    loop {
        let [length] = bytes(reader)?;
        if length == 0 {
            return Some(());
        }
        reader.seek_relative(i64::from(length)).ok()?;
    }
}

fn bytes<const N: usize>(reader: &mut dyn ReadSeek) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).ok()?;
    Some(bytes)
}
