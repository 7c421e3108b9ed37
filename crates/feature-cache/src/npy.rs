//! One array of a NumPy file (`.npy`): little-endian numbers, row by row
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).

use std::io::Read;

/// The longest header that is read; NumPy's own are under 128 bytes.
const MAX_HEADER: usize = 4096;

/// An array of any number of dimensions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    pub shape: Vec<usize>,
    /// Every number of the types that are read here fits.
    pub values: Vec<f64>,
}

/// Reads an array of at most `most` numbers.
pub(crate) fn read(source: &mut dyn Read, most: usize) -> Result<Array, String> {
    let cut = |_| "is cut off".to_owned();
    let mut start = [0; 8];
    source.read_exact(&mut start).map_err(cut)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err("is no NumPy array".to_owned());
    }
    let length = if start[6] == 1 {
        let mut length = [0; 2];
        source.read_exact(&mut length).map_err(cut)?;
        usize::from(u16::from_le_bytes(length))
    } else {
        let mut length = [0; 4];
        source.read_exact(&mut length).map_err(cut)?;
        u32::from_le_bytes(length) as usize
    };
    if length > MAX_HEADER {
        return Err(format!("has a header of {length} bytes, the limit is {MAX_HEADER}"));
    }
    let mut header = vec![0; length];
    source.read_exact(&mut header).map_err(cut)?;
    let header = String::from_utf8(header).map_err(|_| "has a header that is no text".to_owned())?;
    let unclear = |what: &str| format!("has a header without {what}");

    let kind = value_of(&header, "descr").and_then(quoted).ok_or_else(|| unclear("a type"))?;
    if !value_of(&header, "fortran_order").ok_or_else(|| unclear("an order"))?.starts_with("False") {
        return Err("is stored column by column".to_owned());
    }
    let shape = value_of(&header, "shape").and_then(numbers).ok_or_else(|| unclear("a shape"))?;
    let count = shape.iter().try_fold(1usize, |count, &length| count.checked_mul(length));
    let count = count.filter(|&count| count <= most).ok_or_else(|| format!("has the impossible shape {shape:?}"))?;

    let size = match kind {
        "<f4" | "<i4" => 4,
        "<f8" | "<i8" => 8,
        other => return Err(format!("has numbers of the type `{}`", other.escape_debug())),
    };
    let mut bytes = Vec::new();
    // To the end and one further: only there a checksum around it is looked at.
    source.take((count * size) as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() != count * size {
        return Err(format!("does not have the {count} numbers that its header says"));
    }
    let values = match kind {
        "<f4" => bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
        "<i4" => bytes.as_chunks().0.iter().map(|&b| f64::from(i32::from_le_bytes(b))).collect(),
        "<f8" => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        _ => bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
    };
    Ok(Array { shape, values })
}

/// What follows `'key':` in the header, which is a Python dictionary.
fn value_of<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{key}'"))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    Some(text.strip_prefix('\'')?.split_once('\'')?.0)
}

/// `(4, 64, 64)`; `(4,)`; `()`.
fn numbers(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    inside.split(',').map(str::trim).filter(|number| !number.is_empty()).map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(data);
        file
    }

    fn read_all(file: &[u8]) -> Result<Array, String> {
        read(&mut &file[..], 100)
    }

    #[test]
    fn numbers_of_four_types_are_read() {
        let one = |kind: &str, data: &[u8]| {
            let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (1,), }}\n");
            read_all(&file(&header, data)).unwrap()
        };
        for (kind, data) in [
            ("<f4", (-2.5f32).to_le_bytes().to_vec()),
            ("<f8", (-2.5f64).to_le_bytes().to_vec()),
            ("<i4", 7i32.to_le_bytes().to_vec()),
            ("<i8", 7i64.to_le_bytes().to_vec()),
        ] {
            let expected = if kind.starts_with("<f") { -2.5 } else { 7.0 };
            assert_eq!(one(kind, &data), Array { shape: vec![1], values: vec![expected] });
        }
        let scalar = file("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", &1f32.to_le_bytes());
        assert_eq!(read_all(&scalar).unwrap().shape, Vec::<usize>::new());
    }

    #[test]
    fn hostile_files_are_refused_with_a_reason() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615, 2), }";
        let object = "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }";
        let columns = "{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }";
        let negative = "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }";
        for (bytes, reason) in [
            (b"PK\x03\x04abcdef".to_vec(), "is no NumPy array"),
            (b"\x93NUM".to_vec(), "is cut off"),
            (file(header, &[0; 8])[..20].to_vec(), "is cut off"),
            (file(header, &[0; 7]), "does not have the 2 numbers that its header says"),
            (file(header, &[0; 9]), "does not have the 2 numbers that its header says"),
            (file(huge, &[0; 8]), "has the impossible shape [18446744073709551615, 2]"),
            (file(object, &[0; 8]), "has numbers of the type `|O`"),
            (file(columns, &[0; 8]), "is stored column by column"),
            (file(negative, &[0; 8]), "has a header without a shape"),
            (file("{}", &[0; 8]), "has a header without a type"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "has a header of 4294967295 bytes, the limit is 4096"),
        ] {
            assert_eq!(read_all(&bytes), Err(reason.to_owned()));
        }
    }
}
