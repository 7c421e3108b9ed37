//! TIFF: whether the pixels of its first image lie in the file, and whether other pages follow it.
//!
//! Directories and types: TIFF 6.0, section 2 (Adobe, 1992).

use std::io::SeekFrom;

use image::ImageFormat;

use super::by_image_crate::ByImageCrate;
use super::jpeg::TRUNCATED;
use crate::source::ReadSeek;

pub(super) const TIFF: ByImageCrate = ByImageCrate {
    format: ImageFormat::Tiff,
    name: "TIFF",
    begins: |start| start.starts_with(b"II*\0") || start.starts_with(b"MM\0*"),
    is_animated: check,
};

const NEW_SUBFILE_TYPE: u16 = 254;
const STRIP_OFFSETS: u16 = 273;
const STRIP_LENGTHS: u16 = 279;
const TILE_OFFSETS: u16 = 324;
const TILE_LENGTHS: u16 = 325;
/// More strips or tiles than this are left to the decoder.
const MOST_PARTS: u32 = 1 << 18;
/// Directories that are looked at for another page, so that a circle of them has an end.
const MOST_DIRECTORIES: usize = 64;

/// Numbers in the byte order of the file.
struct Numbers<'a> {
    reader: &'a mut dyn ReadSeek,
    is_big_endian: bool,
}

impl Numbers<'_> {
    fn go_to(&mut self, place: u64) -> Result<(), String> {
        self.reader.seek(SeekFrom::Start(place)).map(|_| ()).map_err(|e| e.to_string())
    }

    fn short(&mut self) -> Result<u16, String> {
        let mut bytes = [0; 2];
        self.reader.read_exact(&mut bytes).map_err(|_| TRUNCATED.to_owned())?;
        Ok(if self.is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn long(&mut self) -> Result<u32, String> {
        let mut bytes = [0; 4];
        self.reader.read_exact(&mut bytes).map_err(|_| TRUNCATED.to_owned())?;
        Ok(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The values of the entry at this place; none where they are of an unusual type or too many.
    fn values(&mut self, entry: u64) -> Result<Vec<u32>, String> {
        const SHORT: u16 = 3;
        const LONG: u16 = 4;
        self.go_to(entry + 2)?;
        let (kind, count) = (self.short()?, self.long()?);
        let width = match kind {
            SHORT => 2,
            LONG => 4,
            _ => return Ok(Vec::new()),
        };
        if count > MOST_PARTS {
            return Ok(Vec::new());
        }
        if count * width > 4 {
            let place = self.long()?;
            self.go_to(u64::from(place))?;
        }
        (0..count).map(|_| if kind == SHORT { self.short().map(u32::from) } else { self.long() }).collect()
    }
}

/// Looks whether every strip or tile lies in the file; and whether there are further pages, of which none is read.
fn check(reader: &mut dyn ReadSeek) -> Result<bool, String> {
    let length = reader.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    let mut numbers = Numbers { reader, is_big_endian: false };
    numbers.go_to(0)?;
    numbers.is_big_endian = numbers.short()? == u16::from_le_bytes(*b"MM");
    numbers.go_to(4)?;
    let directory = u64::from(numbers.long()?);
    numbers.go_to(directory)?;
    let entries = numbers.short()?;
    let (mut offsets, mut lengths) = (Vec::new(), Vec::new());
    for entry in (0..u64::from(entries)).map(|number| directory + 2 + 12 * number) {
        numbers.go_to(entry)?;
        match numbers.short()? {
            STRIP_OFFSETS | TILE_OFFSETS => offsets = numbers.values(entry)?,
            STRIP_LENGTHS | TILE_LENGTHS => lengths = numbers.values(entry)?,
            _ => {}
        }
    }
    let is_cut = offsets.iter().zip(&lengths).any(|(&at, &count)| u64::from(at) + u64::from(count) > length);
    if is_cut {
        return Err(TRUNCATED.to_owned());
    }
    numbers.go_to(directory + 2 + 12 * u64::from(entries))?;
    let next = u64::from(numbers.long()?);
    Ok(has_page(&mut numbers, next))
}

/// Whether this directory, or one that it leads to, is a page: thumbnails (bit 0 of the type) and masks (bit 2) are none.
fn has_page(numbers: &mut Numbers<'_>, mut directory: u64) -> bool {
    for _ in 0..MOST_DIRECTORIES {
        if directory == 0 {
            return false;
        }
        match kind_and_next(numbers, directory) {
            Ok((kind, next)) if kind & 0b101 != 0 => directory = next,
            // One that is cut off is not read either.
            _ => return true,
        }
    }
    true
}

/// What the image of a directory is, and where the next directory lies.
fn kind_and_next(numbers: &mut Numbers<'_>, directory: u64) -> Result<(u32, u64), String> {
    numbers.go_to(directory)?;
    let entries = u64::from(numbers.short()?);
    let mut kind = 0;
    for entry in (0..entries).map(|number| directory + 2 + 12 * number) {
        numbers.go_to(entry)?;
        if numbers.short()? == NEW_SUBFILE_TYPE {
            kind = numbers.values(entry)?.first().copied().unwrap_or(0);
        }
    }
    numbers.go_to(directory + 2 + 12 * entries)?;
    Ok((kind, u64::from(numbers.long()?)))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A file with a directory for each of these types, each with no pixels, and the last leading to `end`.
    fn pages(types: &[u32], end: u32) -> Vec<u8> {
        let mut bytes = b"II*\0\x08\0\0\0".to_vec();
        for (number, kind) in types.iter().enumerate() {
            bytes.extend(1_u16.to_le_bytes());
            bytes.extend(NEW_SUBFILE_TYPE.to_le_bytes());
            bytes.extend(4_u16.to_le_bytes());
            bytes.extend(1_u32.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            let next = if number + 1 < types.len() { bytes.len() as u32 + 4 } else { end };
            bytes.extend(next.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn further_pages_are_noticed_and_thumbnails_and_masks_are_none() {
        for (types, end, expected) in [
            (&[0][..], 0, false),
            (&[0, 2], 0, true),
            (&[0, 1], 0, false),
            (&[0, 1, 4, 1], 0, false),
            (&[0, 1, 4, 2], 0, true),
            // A page that was cut off, and a circle.
            (&[0], 4000, true),
            (&[0, 1], 8 + 18, true),
        ] {
            assert_eq!(check(&mut Cursor::new(pages(types, end))), Ok(expected), "{types:?}");
        }
    }
}
