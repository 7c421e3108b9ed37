//! Lists of the tensors of full-size networks.

use std::fs::File;
use std::io::Read;

use flate2::read::GzDecoder;

use crate::fixture_folder;

/// A list, a line for each tensor: `NAME` below `tests/fixtures/keys`, see the README there, or else `NAME.gz`.
///
/// # Panics
/// Where it cannot be read.
pub fn key_list(name: &str) -> String {
    let path = fixture_folder().join("keys").join(name);
    if let Ok(text) = std::fs::read_to_string(&path) {
        return text;
    }
    let mut text = String::new();
    let read = File::open(fixture_folder().join("keys").join(format!("{name}.gz")))
        .and_then(|file| GzDecoder::new(file).read_to_string(&mut text));
    read.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text
}
