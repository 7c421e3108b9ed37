//! The dots an inch that an image file states: JFIF density, PNG `pHYs`, EXIF, TIFF and BMP headers.

/// The fewer of across and down, to a tenth: formats that count by the metre cannot say 96 exactly.
pub(crate) fn dots_per_inch(bytes: &[u8]) -> Option<f64> {
    let stated = match bytes {
        [0xFF, 0xD8, ..] => jpeg(bytes),
        [0x89, b'P', b'N', b'G', ..] => png(bytes),
        [b'B', b'M', ..] => bmp(bytes),
        [b'R', b'I', b'F', b'F', ..] => webp(bytes),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => tiff(bytes),
        _ => None,
    }?;
    let dpi = (stated.0.min(stated.1) * 10.0).round() / 10.0;
    (dpi > 0.0 && dpi.is_finite()).then_some(dpi)
}

const CENTIMETRES: f64 = 2.54;
const METRES: f64 = 0.0254;

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    be32(bytes, at).map(u32::swap_bytes)
}

/// The density of the JFIF segment, or without one that of EXIF.
fn jpeg(bytes: &[u8]) -> Option<(f64, f64)> {
    let mut at = 2;
    let mut exif = None;
    loop {
        let [0xFF, marker] = *bytes.get(at..at + 2)? else { return exif };
        // Fill bytes may stand before a marker.
        if marker == 0xFF {
            at += 1;
            continue;
        }
        // The picture itself begins, or ends.
        if matches!(marker, 0xDA | 0xD9) {
            return exif;
        }
        let length = usize::from(be16(bytes, at + 2)?);
        let Some(segment) = bytes.get(at + 4..at + 2 + length) else { return exif };
        match (marker, segment) {
            (0xE0, [b'J', b'F', b'I', b'F', 0, _, _, unit, ..]) => {
                let density = Some((f64::from(be16(segment, 8)?), f64::from(be16(segment, 10)?)));
                match unit {
                    1 => return density,
                    2 => return density.map(|(x, y)| (x * CENTIMETRES, y * CENTIMETRES)),
                    _ => {}
                }
            }
            (0xE1, [b'E', b'x', b'i', b'f', 0, 0, data @ ..]) => exif = exif.or(tiff(data)),
            _ => {}
        }
        at += 2 + length.max(2);
    }
}

fn png(bytes: &[u8]) -> Option<(f64, f64)> {
    let mut at = 8;
    loop {
        let length = be32(bytes, at)? as usize;
        let data = at + 8;
        match bytes.get(at + 4..data)? {
            b"pHYs" if bytes.get(data + 8) == Some(&1) => {
                return Some((f64::from(be32(bytes, data)?) * METRES, f64::from(be32(bytes, data + 4)?) * METRES));
            }
            b"IDAT" => return None,
            _ => at = data.checked_add(length)?.checked_add(4)?,
        }
    }
}

fn bmp(bytes: &[u8]) -> Option<(f64, f64)> {
    // BITMAPINFOHEADER and everything that continues it.
    (le32(bytes, 14)? >= 40).then_some(())?;
    Some((f64::from(le32(bytes, 38)?) * METRES, f64::from(le32(bytes, 42)?) * METRES))
}

fn webp(bytes: &[u8]) -> Option<(f64, f64)> {
    let mut at = 12;
    loop {
        let length = le32(bytes, at + 4)? as usize;
        let data = at + 8;
        if bytes.get(at..at + 4)? == b"EXIF" {
            let exif = bytes.get(data..data.checked_add(length)?)?;
            return tiff(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
        }
        // Chunks have an even length.
        at = data.checked_add(length)?.checked_add(length & 1)?;
    }
}

/// `XResolution` and `YResolution` of the first directory of a TIFF file, or of EXIF, which is one.
fn tiff(bytes: &[u8]) -> Option<(f64, f64)> {
    let little = bytes.starts_with(b"II");
    let u16_at = |at: usize| be16(bytes, at).map(|value| if little { value.swap_bytes() } else { value });
    let u32_at = |at: usize| be32(bytes, at).map(|value| if little { value.swap_bytes() } else { value });
    let directory = u32_at(4)? as usize;
    let (mut across, mut down, mut unit) = (None, None, 2);
    for entry in 0..usize::from(u16_at(directory)?) {
        let at = directory.checked_add(2 + entry * 12)?;
        let rational = || {
            let place = u32_at(at + 8)? as usize;
            Some(f64::from(u32_at(place)?) / f64::from(u32_at(place.checked_add(4)?)?))
        };
        match u16_at(at)? {
            0x011A => across = rational(),
            0x011B => down = rational(),
            0x0128 => unit = u16_at(at + 8)?,
            _ => {}
        }
    }
    let scale = match unit {
        2 => 1.0,
        3 => CENTIMETRES,
        // "No unit": the two only say how wide a pixel is for its height.
        _ => return None,
    };
    let across = across?;
    Some((across * scale, down.unwrap_or(across) * scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jfif(unit: u8, x: u16, y: u16) -> Vec<u8> {
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE0, 0, 16, b'J', b'F', b'I', b'F', 0, 1, 2, unit];
        bytes.extend(x.to_be_bytes());
        bytes.extend(y.to_be_bytes());
        bytes.extend([0, 0, 0xFF, 0xD9]);
        bytes
    }

    /// A directory with both resolutions as x/1 and y/1.
    fn exif(unit: u16, x: u32, y: u32) -> Vec<u8> {
        let mut bytes = b"MM\0\x2a\0\0\0\x08\0\x03".to_vec();
        for (tag, kind, value) in [(0x011A_u16, 5_u16, 50_u32), (0x011B, 5, 58), (0x0128, 3, u32::from(unit) << 16)] {
            bytes.extend(tag.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend(1_u32.to_be_bytes());
            bytes.extend(value.to_be_bytes());
        }
        bytes.extend([0; 4]);
        assert_eq!(bytes.len(), 50);
        for value in [x, 1, y, 1] {
            bytes.extend(value.to_be_bytes());
        }
        bytes
    }

    fn png(unit: u8, x: u32, y: u32) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x09pHYs".to_vec();
        bytes.extend(x.to_be_bytes());
        bytes.extend(y.to_be_bytes());
        bytes.extend([unit, 0, 0, 0, 0, 0, 0, 0, 0, b'I', b'D', b'A', b'T']);
        bytes
    }

    #[test]
    fn jfif_states_inches_centimetres_or_nothing() {
        assert_eq!(dots_per_inch(&jfif(1, 300, 72)), Some(72.0));
        assert_eq!(dots_per_inch(&jfif(2, 100, 100)), Some(254.0));
        assert_eq!(dots_per_inch(&jfif(0, 1, 1)), None);
        assert_eq!(dots_per_inch(&jfif(1, 0, 0)), None);
    }

    #[test]
    fn png_counts_by_the_metre_and_96_stays_96() {
        assert_eq!(dots_per_inch(&png(1, 3779, 3780)), Some(96.0));
        assert_eq!(dots_per_inch(&png(1, 2835, 2835)), Some(72.0));
        assert_eq!(dots_per_inch(&png(0, 1, 1)), None);
    }

    #[test]
    fn exif_is_read_from_jpeg_webp_and_tiff() {
        assert_eq!(dots_per_inch(&exif(2, 240, 300)), Some(240.0));
        assert_eq!(dots_per_inch(&exif(3, 100, 100)), Some(254.0));
        assert_eq!(dots_per_inch(&exif(1, 100, 100)), None);
        let data = [b"Exif\0\0".to_vec(), exif(2, 240, 300)].concat();
        let mut jpeg = vec![0xFF, 0xD8, 0xFF, 0xE1];
        jpeg.extend((data.len() as u16 + 2).to_be_bytes());
        jpeg.extend(&data);
        jpeg.extend([0xFF, 0xDA]);
        assert_eq!(dots_per_inch(&jpeg), Some(240.0));
        let mut webp = b"RIFF\0\0\0\0WEBPEXIF".to_vec();
        webp.extend((data.len() as u32).to_le_bytes());
        webp.extend(&data);
        assert_eq!(dots_per_inch(&webp), Some(240.0));
    }

    #[test]
    fn files_cut_off_or_wrong_anywhere_state_nothing_and_do_no_harm() {
        for whole in [jfif(1, 300, 300), exif(2, 240, 300), png(1, 3780, 3780)] {
            for end in 0..whole.len() {
                let _ = dots_per_inch(&whole[..end]);
                let mut wrong = whole.clone();
                wrong[end] = 0xFF;
                let _ = dots_per_inch(&wrong);
            }
        }
        assert_eq!(dots_per_inch(b""), None);
        assert_eq!(dots_per_inch(b"BM"), None);
    }
}
