//! PNG: walks its chunks from one to the next, to see that its end is there without decoding it.

use std::io::SeekFrom;

use image::ImageFormat;

use super::by_image_crate::ByImageCrate;
use super::jpeg::TRUNCATED;
use crate::source::ReadSeek;

pub(super) const PNG: ByImageCrate = ByImageCrate {
    format: ImageFormat::Png,
    begins: |start| start.starts_with(b"\x89PNG\r\n\x1a\n"),
    is_animated: check,
};

/// Makes sure that the file holds every chunk up to its `IEND`; whether it is an animation.
fn check(reader: &mut dyn ReadSeek) -> Result<bool, String> {
    let length = reader.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    // Behind the 8 bytes of the signature: 4 bytes of length, 4 of type, the data, 4 of checksum.
    let mut position = 8;
    let mut animated = false;
    loop {
        reader.seek(SeekFrom::Start(position)).map_err(|e| e.to_string())?;
        let mut header = [0; 8];
        reader.read_exact(&mut header).map_err(|_| TRUNCATED.to_owned())?;
        let [l3, l2, l1, l0, kind @ ..] = header;
        position += 12 + u64::from(u32::from_be_bytes([l3, l2, l1, l0]));
        if position > length {
            return Err(TRUNCATED.to_owned());
        }
        match &kind {
            b"acTL" => animated = true,
            b"IEND" => return Ok(animated),
            _ => {}
        }
    }
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
