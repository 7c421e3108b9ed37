//! TFRecord framing: length, checksum of the length, payload, checksum of the payload; all little-endian.

use std::io::{self, Write};

/// CRC-32C, rotated and offset so that a checksum of data that holds checksums stays useful
/// (tensorflow/core/lib/hash/crc32c.h).
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Appends one record.
pub(super) fn write(output: &mut impl Write, payload: &[u8]) -> io::Result<()> {
    let length = (payload.len() as u64).to_le_bytes();
    output.write_all(&length)?;
    output.write_all(&masked_crc(&length).to_le_bytes())?;
    output.write_all(payload)?;
    output.write_all(&masked_crc(payload).to_le_bytes())
}

/// The payloads of a whole file; `None` if a frame is cut off or a checksum is wrong.
#[cfg(test)]
pub(super) fn read_all(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut payloads = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (length_crc, rest) = rest.split_first_chunk::<4>()?;
        let (payload, rest) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
        let (payload_crc, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*length_crc) != masked_crc(length)
            || u32::from_le_bytes(*payload_crc) != masked_crc(payload)
        {
            return None;
        }
        payloads.push(payload.to_vec());
        bytes = rest;
    }
    Some(payloads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c_with_the_published_test_vector() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa); // RFC 3720, B.4
    }

    #[test]
    fn a_changed_or_missing_byte_is_noticed() {
        let mut bytes = Vec::new();
        write(&mut bytes, b"one").expect("memory");
        write(&mut bytes, b"two").expect("memory");
        assert_eq!(read_all(&bytes), Some(vec![b"one".to_vec(), b"two".to_vec()]));
        assert_eq!(read_all(&bytes[..bytes.len() - 1]), None);
        bytes[13] ^= 1;
        assert_eq!(read_all(&bytes), None);
    }
}
