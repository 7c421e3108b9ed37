//! AVIF: recognised, so that its message says what to do.
//!
//! It is not read (November 2026). The decoders in Rust that need neither a C library nor an assembler are under the AGPL
//! (`zenavif`, `rav1d-safe`), give only a C interface, which takes `unsafe` (`rav1d` without `asm`), or are a fork of that which is not
//! kept up with it (`re_rav1d`). `avif-decode` 3 lies on `rav1d` and is free of C, but switches the assembler on wherever it is built
//! for x86 (`nasm` would have to be installed), needs Rust 1.98, leaves colour profiles out and has no limit on memory. Its next
//! version is worth another look.

use super::format::{Decoded, Format, Header};
use crate::source::ReadSeek;

pub(super) struct Avif;

const REFUSAL: &str = "is AVIF, which is not read; convert it to PNG, WebP or JPEG XL";

impl Format for Avif {
    fn name(&self) -> &'static str {
        "AVIF"
    }

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
