//! PNG: walks its chunks from one to the next, to see that its end is there without decoding it.

use std::io::SeekFrom;

use image::ImageFormat;

use super::by_image_crate::ByImageCrate;
use super::jpeg::TRUNCATED;
use crate::source::ReadSeek;

pub(super) const PNG: ByImageCrate = ByImageCrate {
    format: ImageFormat::Png,
    name: "PNG",
    begins: |start| start.starts_with(b"\x89PNG\r\n\x1a\n"),
    is_animated: check,
};

/// Deflate makes at most this many bytes of one (`zlib.net/zlib_tech.html`).
const MOST_DEFLATED: u64 = 1032;

/// Makes sure that the file holds every chunk up to its `IEND`, and that its data can hold what the header says; whether it is
/// an animation.
fn check(reader: &mut dyn ReadSeek) -> Result<bool, String> {
    let length = reader.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    // Behind the 8 bytes of the signature: 4 bytes of length, 4 of type, the data, 4 of checksum.
    let mut position = 8;
    let mut animated = false;
    let mut header = None;
    let mut data = 0;
    loop {
        reader.seek(SeekFrom::Start(position)).map_err(|e| e.to_string())?;
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(|_| TRUNCATED.to_owned())?;
        let [l3, l2, l1, l0, kind @ ..] = start;
        let chunk = u64::from(u32::from_be_bytes([l3, l2, l1, l0]));
        position += 12 + chunk;
        if position > length {
            return Err(TRUNCATED.to_owned());
        }
        match &kind {
            b"IHDR" => {
                let mut bytes = [0; 10];
                reader.read_exact(&mut bytes).map_err(|_| TRUNCATED.to_owned())?;
                header = Some(bytes);
            }
            b"IDAT" => data += chunk,
            b"acTL" => animated = true,
            b"IEND" => break,
            _ => {}
        }
    }
    let [w3, w2, w1, w0, h3, h2, h1, h0, depth, colour] = header.ok_or("has no header chunk")?;
    let (width, height) = (u32::from_be_bytes([w3, w2, w1, w0]), u32::from_be_bytes([h3, h2, h1, h0]));
    let channels: u64 = match colour {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let bits = u128::from(width) * u128::from(height) * u128::from(channels * u64::from(depth));
    if bits / 8 > u128::from(data) * u128::from(MOST_DEFLATED) {
        return Err(format!("says it has {width} × {height} pixels, but its {length} bytes cannot hold as many"));
    }
    Ok(animated)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::codecs::png::PngEncoder;
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn a_file_cut_anywhere_is_noticed() {
        let image = RgbImage::from_fn(40, 24, |x, y| Rgb([(x * 6) as u8, (y * 10) as u8, ((x * y) % 256) as u8]));
        let mut png = Vec::new();
        image.write_with_encoder(PngEncoder::new(&mut png)).unwrap();
        assert_eq!(check(&mut Cursor::new(&png)), Ok(false));
        for length in 0..png.len() {
            assert!(check(&mut Cursor::new(&png[..length])).is_err(), "{length} of {} bytes", png.len());
        }
        png.extend(b"behind the end");
        assert_eq!(check(&mut Cursor::new(&png)), Ok(false));
    }
}
