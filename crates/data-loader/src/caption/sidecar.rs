//! The caption file beside an image: its text, whatever editor wrote it.

use std::fs;
use std::path::Path;

/// More is no caption but a wrong file.
pub(crate) const LARGEST: u64 = 64 * 1024;

/// The caption in a file: its lines that are not blank, trimmed; empty for an empty file.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > LARGEST {
        return Err(format!("{length} bytes are too many for a caption"));
    }
    let text = decode(&fs::read(path).map_err(|e| e.to_string())?)?;
    if text.contains('\0') {
        return Err("holds a NUL character, so it is not text".to_owned());
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok(lines.join("\n"))
}

/// UTF-8 with or without a byte order mark, and UTF-16 with one, as Windows editors write them.
pub(crate) fn decode(bytes: &[u8]) -> Result<String, String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|&pair| unit(pair)).collect();
        let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty());
        text.ok_or_else(|| "is broken UTF-16".to_owned())
    };
    match bytes {
        [0xEF, 0xBB, 0xBF, rest @ ..] => utf8(rest),
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|e| {
        let at = e.valid_up_to();
        format!("is not UTF-8: byte {} is 0x{:02x}", at + 1, bytes[at])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caption(bytes: &[u8]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, bytes).unwrap();
        read(&path)
    }

    #[test]
    fn takes_every_line_that_is_not_blank() {
        assert_eq!(caption(b"  a red bottle \r\n \r\nsecond\n").unwrap(), "a red bottle\nsecond");
        assert_eq!(caption(b"\n\n a\n").unwrap(), "a");
        assert_eq!(caption(b"").unwrap(), "");
        assert_eq!(caption(b" \n").unwrap(), "");
    }

    #[test]
    fn reads_what_windows_editors_write() {
        assert_eq!(caption("\u{feff}瓶".as_bytes()).unwrap(), "瓶");
        let little: Vec<u8> = "\u{feff}瓶 a".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(caption(&little).unwrap(), "瓶 a");
        let big: Vec<u8> = "\u{feff}瓶 a".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(caption(&big).unwrap(), "瓶 a");
    }

    #[test]
    fn refuses_what_is_not_text() {
        assert_eq!(caption(b"caf\xe9").unwrap_err(), "is not UTF-8: byte 4 is 0xe9");
        assert_eq!(caption(b"\xff\xfea\0b").unwrap_err(), "is broken UTF-16");
        assert!(caption(b"a\0b").unwrap_err().contains("NUL"));
        assert!(caption(&[b'a'; 70_000]).unwrap_err().contains("70000 bytes"));
    }
}
