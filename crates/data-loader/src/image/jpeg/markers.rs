//! Walks the markers of a JPEG: its size, its orientation, and whether all of it is there.
//!
//! The decoder fills the missing part of a truncated file with grey and reports success, so that has to be noticed here.
//! Markers: ITU-T T.81, table B.1.

use std::io::{BufRead, Seek, SeekFrom};

use image::metadata::Orientation;

use crate::image::format::Header;
use crate::image::profile::{Kind, is_ignored};

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const APP1: u8 = 0xE1;
const APP2: u8 = 0xE2;

/// A Huffman-coded file spends at least one bit on the DC term of each 8 × 8 block of each component; even with the colours
/// at half resolution and every AC term skipped that is 6 bits for 256 pixels, 342 pixels a byte.
const MOST_PIXELS_A_BYTE: u64 = 400;

/// Stands for an end that is not there.
pub(in crate::image) const TRUNCATED: &str = "truncated: the file ends before its image does";

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// The headers and the last two bytes; all of it only where those are not the end marker.
    Ends,
    /// Every scan up to the end marker.
    Whole,
}

/// Reads the header and makes sure that the file is complete.
pub(super) fn check<R: BufRead + Seek + ?Sized>(reader: &mut R, depth: Depth) -> Result<Header, String> {
    let length = reader.seek(SeekFrom::End(0)).map_err(text)?;
    let ends_with_marker = ends_with_eoi(reader, length)?;
    reader.seek(SeekFrom::Start(0)).map_err(text)?;
    if byte(reader)? != 0xFF || byte(reader)? != SOI {
        return Err("is not a JPEG".to_owned());
    }
    let mut frame = None;
    let mut profile = Profile::default();
    let mut orientation = Orientation::NoTransforms;
    loop {
        match next_marker(reader)? {
            // Start of frame of every coding process; C4, C8 and CC are tables in the same range.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                let segment = segment(reader)?;
                let [_, h1, h0, w1, w0, components, ..] = segment[..] else {
                    return Err("has a broken frame header".to_owned());
                };
                let side = |bytes| u32::from(u16::from_be_bytes(bytes));
                frame = Some((side([w1, w0]), side([h1, h0]), components));
            }
            APP1 => {
                if let Some(exif) = segment(reader)?.strip_prefix(b"Exif\0\0") {
                    orientation = Orientation::from_exif_chunk(exif).unwrap_or(orientation);
                }
            }
            APP2 => profile.add(&segment(reader)?),
            SOS => break,
            EOI => return Err("has an end but no image".to_owned()),
            marker => skip_segment(reader, marker)?,
        }
    }
    skip_segment(reader, SOS)?;
    let (width, height, components) = frame.ok_or("has no frame header before its first scan")?;
    let scan_start = reader.stream_position().map_err(text)?;
    let scan_bytes = length.saturating_sub(scan_start);
    if u64::from(width) * u64::from(height) > scan_bytes.saturating_mul(MOST_PIXELS_A_BYTE) {
        return Err(format!("says it has {width} × {height} pixels, but its {length} bytes cannot hold as many"));
    }
    if depth == Depth::Whole || !ends_with_marker {
        while next_marker_in_scan(reader)? != EOI {}
    }
    Ok(Header { width, height, orientation, animated: false, ignores_profile: profile.is_ignored(components) })
}

/// A colour profile in its pieces (ICC.1:2022, B.4): a mark, which of how many it is, its bytes.
#[derive(Default)]
struct Profile {
    pieces: Vec<(u8, Vec<u8>)>,
    count: u8,
}

impl Profile {
    fn add(&mut self, segment: &[u8]) {
        if let Some([number, count, bytes @ ..]) = segment.strip_prefix(b"ICC_PROFILE\0") {
            self.count = *count;
            self.pieces.push((*number, bytes.to_vec()));
        }
    }

    /// Whether there is one that does not fit an image of so many components, or of which a piece is missing.
    fn is_ignored(&self, components: u8) -> bool {
        let mut pieces: Vec<&(u8, Vec<u8>)> = self.pieces.iter().collect();
        pieces.sort_by_key(|(number, _)| *number);
        let kind = match components {
            1 => Kind::Grey,
            4 => Kind::Cmyk,
            _ => Kind::Rgb,
        };
        let is_whole = pieces.iter().map(|(number, _)| *number).eq(1..=self.count);
        let bytes: Vec<u8> = pieces.iter().flat_map(|(_, bytes)| bytes).copied().collect();
        !pieces.is_empty() && (!is_whole || is_ignored(&bytes, kind))
    }
}

/// Whether the last bytes are the end marker; a scan cannot contain it, though a thumbnail in the header can.
fn ends_with_eoi<R: BufRead + Seek + ?Sized>(reader: &mut R, length: u64) -> Result<bool, String> {
    if length < 4 {
        return Ok(false);
    }
    reader.seek(SeekFrom::Start(length - 2)).map_err(text)?;
    Ok(byte(reader)? == 0xFF && byte(reader)? == EOI)
}

/// The next marker between segments; anything that is not one is passed over, as decoders do.
fn next_marker<R: BufRead + Seek + ?Sized>(reader: &mut R) -> Result<u8, String> {
    loop {
        reader.skip_until(0xFF).map_err(text)?;
        let mut code = byte(reader)?;
        while code == 0xFF {
            code = byte(reader)?;
        }
        if code != 0 {
            return Ok(code);
        }
    }
}

/// The next marker that ends a piece of entropy-coded data, its segment skipped: a table, another scan, or the end.
fn next_marker_in_scan<R: BufRead + Seek + ?Sized>(reader: &mut R) -> Result<u8, String> {
    let marker = next_marker(reader)?;
    if marker != EOI {
        skip_segment(reader, marker)?;
    }
    Ok(marker)
}

/// Skips what belongs to a marker; restart markers and a few others have nothing.
fn skip_segment<R: BufRead + Seek + ?Sized>(reader: &mut R, marker: u8) -> Result<(), String> {
    if matches!(marker, 0x01 | 0xD0..=0xD8) {
        return Ok(());
    }
    let length = segment_length(reader)?;
    reader.seek_relative(length as i64).map_err(text)
}

fn segment<R: BufRead + Seek + ?Sized>(reader: &mut R) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; segment_length(reader)?];
    reader.read_exact(&mut bytes).map_err(|_| TRUNCATED.to_owned())?;
    Ok(bytes)
}

/// Length of a segment without the two bytes that state it.
fn segment_length<R: BufRead + Seek + ?Sized>(reader: &mut R) -> Result<usize, String> {
    let length = u16::from_be_bytes([byte(reader)?, byte(reader)?]);
    Ok(usize::from(length.saturating_sub(2)))
}

fn byte<R: BufRead + ?Sized>(reader: &mut R) -> Result<u8, String> {
    let mut byte = [0];
    reader.read_exact(&mut byte).map_err(|_| TRUNCATED.to_owned())?;
    Ok(byte[0])
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::codecs::jpeg::JpegEncoder;
    use image::{Rgb, RgbImage};

    use super::*;

    fn sample() -> Vec<u8> {
        let image = RgbImage::from_fn(40, 24, |x, y| Rgb([(x * 6) as u8, (y * 10) as u8, ((x * y) % 256) as u8]));
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&image).unwrap();
        bytes
    }

    fn look(bytes: &[u8], depth: Depth) -> Result<Header, String> {
        check(&mut Cursor::new(bytes), depth)
    }

    /// A segment with this payload, right after the start of the image.
    fn with_segment(jpeg: &[u8], marker: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = jpeg[..2].to_vec();
        bytes.extend([0xFF, marker]);
        bytes.extend((payload.len() as u16 + 2).to_be_bytes());
        bytes.extend(payload);
        bytes.extend(&jpeg[2..]);
        bytes
    }

    #[test]
    fn a_whole_file_is_fine() {
        for depth in [Depth::Ends, Depth::Whole] {
            let header = look(&sample(), depth).unwrap();
            assert_eq!(
                header,
                Header {
                    width: 40,
                    height: 24,
                    orientation: Orientation::NoTransforms,
                    animated: false,
                    ignores_profile: false
                }
            );
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_noticed() {
        let jpeg = sample();
        for length in 0..jpeg.len() {
            for depth in [Depth::Ends, Depth::Whole] {
                assert!(look(&jpeg[..length], depth).is_err(), "{length} of {} bytes, {depth:?}", jpeg.len());
            }
        }
    }

    #[test]
    fn a_tail_of_zeros_is_noticed() {
        let mut jpeg = sample();
        let half = jpeg.len() / 2;
        jpeg[half..].fill(0);
        assert_eq!(look(&jpeg, Depth::Ends).unwrap_err(), TRUNCATED);
    }

    #[test]
    fn the_end_of_a_thumbnail_is_not_the_end_of_the_image() {
        let mut thumbnail = b"Exif\0\0".to_vec();
        thumbnail.extend(sample());
        let jpeg = with_segment(&sample(), APP1, &thumbnail);
        assert!(look(&jpeg, Depth::Ends).is_ok());
        for length in 0..jpeg.len() {
            assert!(look(&jpeg[..length], Depth::Ends).is_err(), "{length} of {} bytes", jpeg.len());
        }
    }

    #[test]
    fn bytes_behind_the_end_do_no_harm() {
        let mut jpeg = sample();
        jpeg.extend(b"\0\0appended by a camera");
        assert!(look(&jpeg, Depth::Ends).is_ok());
    }

    #[test]
    fn scans_with_restart_markers_and_tables_between_are_walked() {
        let jpeg = sample();
        let end = jpeg.len() - 2;
        let mut several = jpeg[..end].to_vec();
        several.extend([0xFF, 0xD0, 1, 2, 0xFF, 0x00, 3]);
        // A table that contains what looks like the end.
        several.extend([0xFF, 0xC4, 0, 6, 0xFF, 0xD9, 0xFF, 0xD9]);
        several.extend([0xFF, SOS, 0, 3, 9, 7, 7, 7]);
        assert!(look(&several, Depth::Whole).is_err());
        several.extend([0xFF, EOI]);
        assert!(look(&several, Depth::Whole).is_ok());
    }

    #[test]
    fn more_pixels_than_the_bytes_can_hold_are_refused() {
        let mut jpeg = sample();
        let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0x2E, 0xE0, 0x2E, 0xE0]);
        assert!(look(&jpeg, Depth::Ends).unwrap_err().contains("12000 × 12000"));
    }

    #[test]
    fn a_profile_that_is_broken_or_lacks_a_piece_is_noticed() {
        let piece = |number: u8, count: u8, bytes: &[u8]| [&b"ICC_PROFILE\0"[..], &[number, count], bytes].concat();
        let srgb = moxcms::ColorProfile::new_srgb().encode().unwrap();
        for (payload, ignored) in [
            (piece(1, 1, &srgb), false),
            (piece(1, 1, b"no profile"), true),
            (piece(1, 2, &srgb), true),
            (b"MPF\0 no profile either".to_vec(), false),
        ] {
            let header = look(&with_segment(&sample(), APP2, &payload), Depth::Ends).unwrap();
            assert_eq!(header.ignores_profile, ignored, "{} bytes", payload.len());
        }
    }

    #[test]
    fn orientation_is_read() {
        // Little-endian TIFF header, one entry: tag 0x0112, type short, count 1, value 6.
        let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let header = look(&with_segment(&sample(), APP1, exif), Depth::Ends).unwrap();
        assert_eq!(header.orientation, Orientation::Rotate90);
    }
}
