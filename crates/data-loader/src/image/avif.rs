//! AVIF: recognised, so that its message says what to do.
//!
//! It is not read: the decoders in Rust that need neither a C library nor an assembler are under the AGPL (`zenavif`,
//! `rav1d-safe`), give only a C interface (`rav1d`), or are a fork of that which is not kept up with it (`re_rav1d`), and leave the
//! container, the colours and the turning to their caller (November 2026).

use super::format::{Decoded, Format, Header};
use crate::source::ReadSeek;

pub(super) struct Avif;

const REFUSAL: &str = "is AVIF, which is not read; convert it to PNG, WebP or JPEG XL";

impl Format for Avif {
    fn begins(&self, start: &[u8]) -> bool {
        start.get(4..8) == Some(b"ftyp") && matches!(start.get(8..12), Some(b"avif" | b"avis"))
    }

    fn look(&self, _: &mut dyn ReadSeek) -> Result<Header, String> {
        Err(REFUSAL.to_owned())
    }

    fn decode(&self, _: &[u8]) -> Result<Decoded, String> {
        Err(REFUSAL.to_owned())
    }
}
