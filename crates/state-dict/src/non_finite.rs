//! Numbers in weights that are none, or infinite: nothing good comes of a network that has one, and a run would only say that its loss is
//! none.

use std::thread;

use crate::Dtype;
use crate::error::{Error, Result, shown};
use crate::reader::{Reader, no_such_tensor};

/// How many of the elements of a type, little-endian, are not finite; none of whole numbers are. One pass at the speed of memory.
fn non_finite(dtype: Dtype, bytes: &[u8]) -> usize {
    // All ones in the exponent, but for the format that has one such number and no infinities.
    const F64: u64 = 0x7ff << 52;
    const F32: u32 = 0xff << 23;
    const BF16: u16 = 0xff << 7;
    const F16: u16 = 0x1f << 10;
    const F8_E5M2: u8 = 0x1f << 2;
    match dtype {
        Dtype::F64 => count(bytes, |number| u64::from_le_bytes(number) & F64 == F64),
        Dtype::F32 => count(bytes, |number| u32::from_le_bytes(number) & F32 == F32),
        Dtype::Bf16 => count(bytes, |number| u16::from_le_bytes(number) & BF16 == BF16),
        Dtype::F16 => count(bytes, |number| u16::from_le_bytes(number) & F16 == F16),
        Dtype::F8E5m2 => count(bytes, |[number]: [u8; 1]| number & F8_E5M2 == F8_E5M2),
        Dtype::F8E4m3 => count(bytes, |[number]: [u8; 1]| number & 0x7f == 0x7f),
        _ => 0,
    }
}

/// How many of the elements are such; several threads look at a large tensor, since one alone does not use what the memory gives.
fn count<const SIZE: usize>(bytes: &[u8], is_one: impl Fn([u8; SIZE]) -> bool + Sync) -> usize {
    const LARGE: usize = 8 << 20;
    let elements = bytes.as_chunks::<SIZE>().0;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(bytes.len() / LARGE);
    if threads < 2 {
        return count_in(elements, &is_one);
    }
    thread::scope(|scope| {
        let parts = elements.chunks(elements.len().div_ceil(threads));
        let looking: Vec<_> = parts.map(|part| scope.spawn(|| count_in(part, &is_one))).collect();
        looking.into_iter().map(|part| part.join().expect("counting does not panic")).sum()
    })
}

fn count_in<const SIZE: usize>(elements: &[[u8; SIZE]], is_one: impl Fn([u8; SIZE]) -> bool) -> usize {
    // Whether a block has one is found without a branch, and blocks that have are rare.
    const BLOCK: usize = 4096;
    let has_one = |block: &&[[u8; SIZE]]| block.iter().fold(false, |found, &number| found | is_one(number));
    let in_block = |block: &[[u8; SIZE]]| block.iter().filter(|&&number| is_one(number)).count();
    elements.chunks(BLOCK).filter(has_one).map(in_block).sum()
}

/// That all numbers of a tensor of `reader`, whose `bytes` were read, are finite.
///
/// # Errors
/// With the file, the tensor by the file's own name and how many are not.
pub fn check_finite(reader: &dyn Reader, name: &str, bytes: &[u8]) -> Result<()> {
    let info = reader.info(name).ok_or_else(|| no_such_tensor(reader.path(), name))?;
    match non_finite(info.dtype, bytes) {
        0 => Ok(()),
        count => {
            let (path, elements) = (reader.path().to_path_buf(), info.elements());
            Err(Error::NotFinite { path, tensor: shown(reader.name_in_file(name)), count, elements })
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::reader::floats_of;

    #[test]
    fn every_number_of_the_small_formats_is_told_as_its_value_says() {
        for dtype in [Dtype::F8E4m3, Dtype::F8E5m2, Dtype::F16, Dtype::Bf16] {
            for bits in 0..=u16::MAX {
                let bytes = bits.to_le_bytes();
                let floats = floats_of(dtype, &bytes).unwrap();
                let expected = floats.iter().filter(|number| !number.is_finite()).count();
                assert_eq!(non_finite(dtype, &bytes), expected, "{dtype} {bits:#x}");
            }
        }
    }

    #[test]
    fn the_largest_numbers_are_finite_and_those_beyond_are_counted_in_every_block() {
        let f32s = [f32::MAX, f32::MIN, f32::MIN_POSITIVE, 0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let bytes: Vec<u8> = f32s.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(non_finite(Dtype::F32, &bytes), 3);
        assert_eq!(non_finite(Dtype::I32, &bytes), 0);
        let f64s = [f64::MAX, f64::MIN, -f64::NAN, f64::INFINITY];
        let bytes: Vec<u8> = f64s.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(non_finite(Dtype::F64, &bytes), 2);
        // Sums of such halves would be infinite.
        let mut halves = vec![f16::MAX; 20_000];
        let bytes = |halves: &[f16]| halves.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(non_finite(Dtype::F16, &bytes(&halves)), 0);
        for at in [0, 4095, 4096, 19_999] {
            halves[at] = f16::NAN;
        }
        assert_eq!(non_finite(Dtype::F16, &bytes(&halves)), 4);
        assert_eq!(non_finite(Dtype::Bf16, &bf16::INFINITY.to_le_bytes()), 1);
        assert_eq!(non_finite(Dtype::Bf16, &[]), 0);
    }

    #[test]
    fn a_large_tensor_is_looked_at_by_several_threads_to_its_last_element() {
        let mut bytes = vec![0; (40 << 20) + 2];
        assert_eq!(non_finite(Dtype::F16, &bytes), 0);
        let infinite = f16::INFINITY.to_le_bytes();
        for (count, at) in [0, 2, 20 << 20, (20 << 20) + 2, 40 << 20].into_iter().enumerate() {
            bytes[at..at + 2].copy_from_slice(&infinite);
            assert_eq!(non_finite(Dtype::F16, &bytes), count + 1);
        }
    }
}
