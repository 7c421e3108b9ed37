//! Small files and the full-size name lists that the tests share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sdtrain_state_dict::{Dtype, FromReader, Reader, SafetensorsFile, TensorEntry, write_to};
use sdtrain_test_support::key_list;

pub fn no_metadata() -> BTreeMap<String, String> {
    BTreeMap::new()
}

pub fn entry(name: &str, dtype: Dtype, shape: &[usize]) -> TensorEntry {
    let length = shape.iter().product::<usize>() * dtype.size();
    let bytes = (0..length).map(|index| (index * 31 + name.len()) as u8).collect();
    TensorEntry { name: name.to_string(), dtype, shape: shape.to_vec(), bytes }
}

pub fn in_memory(tensors: &[TensorEntry]) -> SafetensorsFile {
    let mut bytes = Vec::new();
    write_to(&mut bytes, tensors, &no_metadata()).unwrap();
    SafetensorsFile::from_bytes(bytes, "memory.safetensors").unwrap()
}

pub fn bytes_of(reader: &dyn Reader) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_to(&mut bytes, &FromReader(reader), reader.metadata()).unwrap();
    bytes
}

/// One tensor of `tests/fixtures/keys/*.tsv.gz`.
pub struct Row {
    pub name: String,
    pub shape: Vec<usize>,
    pub original: String,
    pub original_shape: Vec<usize>,
}

pub fn fixture_folder() -> PathBuf {
    match std::env::var_os("SDTRAIN_FIXTURES") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

pub fn keys(list: &str) -> Vec<Row> {
    let text = key_list(list);
    let shape = |field: &str| field.split(',').map(|length| length.parse().unwrap()).collect::<Vec<usize>>();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        Row {
            name: fields[0].to_string(),
            shape: shape(fields[1]),
            original: fields[2].to_string(),
            original_shape: shape(fields.get(3).unwrap_or(&fields[1])),
        }
    };
    text.lines().flat_map(repeated).map(|line| row(&line)).collect()
}

/// `….{10}.…` stands for a line each with the numbers from 0 to 9.
fn repeated(line: &str) -> Vec<String> {
    let Some((count, _)) = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')) else {
        return vec![line.to_string()];
    };
    let numbers = 0..count.parse::<usize>().unwrap();
    numbers.map(|number| line.replace(&format!("{{{count}}}"), &number.to_string())).collect()
}

/// A file with these names in which every dimension is cut down to at most 3, so that full-size lists stay small.
/// Dimensions of 1 stay, and no other becomes 1.
pub fn shrunk<'r>(tensors: impl Iterator<Item = (&'r str, &'r [usize])>) -> Arc<dyn Reader> {
    let small = |shape: &[usize]| shape.iter().map(|&length| length.min(3)).collect::<Vec<_>>();
    let tensors: Vec<_> = tensors.map(|(name, shape)| entry(name, Dtype::F16, &small(shape))).collect();
    Arc::new(in_memory(&tensors))
}
