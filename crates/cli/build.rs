//! Takes the header of the built-in model's file, so that its tensors are known here without carrying them.

use std::path::Path;
use std::{env, fs};

const MODEL: &str = "../model/builtin/poster-tiny.safetensors";

fn main() {
    println!("cargo:rerun-if-changed={MODEL}");
    let wanted = env::var_os("CARGO_FEATURE_BUILTIN_BASE").is_some();
    let header = if wanted { read_header().unwrap_or_default() } else { Vec::new() };
    let folder = env::var_os("OUT_DIR").expect("Cargo sets it");
    fs::write(Path::new(&folder).join("poster-tiny.header"), header).expect("Cargo's own folder can be written");
}

/// The first eight bytes hold the length of the JSON behind them.
fn read_header() -> Option<Vec<u8>> {
    let file = fs::read(MODEL).ok()?;
    let length = u64::from_le_bytes(*file.first_chunk()?);
    file.get(..8 + usize::try_from(length).ok()?).map(<[u8]>::to_vec)
}
