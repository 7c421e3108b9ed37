//! Number formats: 8-bit floats are torch's, and a file in another format has the same numbers, rounded once, or none.

use half::f16;
use sdtrain_state_dict::{Converted, Dtype, Error, Reader, SafetensorsFile, TensorEntry, read_floats, read_integers};

use crate::fixtures::{bytes_of, entry, fixture_folder, in_memory};

fn floats(name: &str, dtype: Dtype, bytes: Vec<u8>) -> TensorEntry {
    TensorEntry { name: name.to_string(), dtype, shape: vec![bytes.len() / dtype.size()], bytes }
}

fn of_f32(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn every_8_bit_float_is_the_number_that_torch_says() {
    let golden = SafetensorsFile::open(fixture_folder().join("float8.safetensors")).unwrap();
    for format in ["e4m3", "e5m2"] {
        let found = read_floats(&golden, &format!("input.{format}")).unwrap();
        let expected = read_integers(&golden, &format!("output.{format}")).unwrap();
        assert_eq!((found.len(), expected.len()), (256, 256));
        for (byte, (found, bits)) in found.iter().zip(expected).enumerate() {
            let expected = f32::from_bits(bits as u32);
            let is_same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
            assert!(is_same, "{format}, {byte:#04x}: {found} and not {expected}");
        }
    }
}

#[test]
fn floating_point_is_converted_and_rounded_once_and_integers_stay() {
    let file = in_memory(&[
        floats("float", Dtype::F32, of_f32(&[1.0, -0.1, 65504.0, f32::INFINITY])),
        floats("small", Dtype::F8E4m3, vec![0x38, 0xb8, 0x01]),
        entry("steps", Dtype::I64, &[2]),
    ]);
    let half = Converted::new(&file, Dtype::F16).unwrap();
    assert_eq!(half.names(), file.names());
    assert_eq!(half.info("small").unwrap().dtype, Dtype::F16);
    assert_eq!(read_floats(&half, "small").unwrap(), [1.0, -1.0, 0.001953125]);
    assert_eq!(read_floats(&half, "float").unwrap(), [1.0, f16::from_f32(-0.1).to_f32(), 65504.0, f32::INFINITY]);
    assert_eq!(read_integers(&half, "steps").unwrap(), read_integers(&file, "steps").unwrap());
    let written = SafetensorsFile::from_bytes(bytes_of(&half), "half.safetensors").unwrap();
    assert_eq!(read_floats(&written, "float").unwrap(), read_floats(&half, "float").unwrap());
}

#[test]
fn a_number_that_the_format_cannot_hold_is_named_and_so_is_a_format_that_is_not_written() {
    let file = in_memory(&[floats("deep.weight", Dtype::F32, of_f32(&[1.0, 70000.0]))]);
    let error = Converted::new(&file, Dtype::F16).unwrap().bytes("deep.weight").unwrap_err().to_string();
    assert!(error.contains("`deep.weight` holds 70000, which F16 cannot"), "{error}");
    assert!(Converted::new(&file, Dtype::Bf16).unwrap().bytes("deep.weight").is_ok());
    let double = in_memory(&[floats("a", Dtype::F64, 1e300f64.to_le_bytes().to_vec())]);
    assert!(Converted::new(&double, Dtype::F32).unwrap().bytes("a").unwrap_err().to_string().contains("cannot"));
    let error = Converted::new(&file, Dtype::I8).err().unwrap();
    assert!(matches!(error, Error::WrongKind { .. }) && error.to_string().contains("cannot be written as I8"));
}

#[test]
fn numbers_become_the_8_bit_floats_that_torch_makes_of_them() {
    let golden = SafetensorsFile::open(fixture_folder().join("float8.safetensors")).unwrap();
    for (format, dtype) in [("e4m3", Dtype::F8E4m3), ("e5m2", Dtype::F8E5m2)] {
        let numbers = golden.bytes(&format!("input.to_{format}")).unwrap().into_owned();
        let expected = golden.bytes(&format!("output.to_{format}")).unwrap();
        let file = in_memory(&[floats("a", Dtype::F32, numbers.clone())]);
        let found = Converted::new(&file, dtype).unwrap();
        let found = found.bytes("a").unwrap();
        assert!(found.len() > 400 && found.len() == expected.len());
        for (index, (found, expected)) in found.iter().zip(expected.iter()).enumerate() {
            let number = f32::from_le_bytes(numbers.as_chunks().0[index]);
            // The sign of what is no number says nothing.
            let is_same = found == expected || (number.is_nan() && found & 0x7f == expected & 0x7f);
            assert!(is_same, "{format}, {number}: {found:#04x} and not {expected:#04x}");
        }
    }
}

#[test]
fn what_8_bits_cannot_hold_is_named() {
    for (dtype, held, lost) in [
        (Dtype::F8E4m3, &[448.0, -464.0][..], &[464.1, -480.0, f32::INFINITY, f32::MAX][..]),
        (Dtype::F8E5m2, &[57344.0, -61439.0, f32::INFINITY], &[61440.0, -65536.0, f32::MAX]),
    ] {
        let of = |number: f32| {
            let file = in_memory(&[floats("a", Dtype::F32, of_f32(&[0.0, number]))]);
            let converted = Converted::new(&file, dtype).unwrap();
            converted.bytes("a").map(|bytes| bytes.into_owned()).map_err(|error| error.to_string())
        };
        for &number in held {
            assert!(of(number).is_ok(), "{dtype}, {number}");
        }
        for &number in lost {
            let error = of(number).unwrap_err();
            assert!(error.contains(&format!("`a` holds {number}, which {dtype} cannot")), "{error}");
        }
    }
}
