//! Tensors from bytes and back: the only copies between a file and a parameter.

use crate::error::{Error, Result};
use tch::{Device, Kind, Tensor};

/// A tensor of `kind` on `device` with the values that `bytes` holds as little-endian `stored` numbers.
///
/// One pass from the bytes into memory of its own, on libtorch's threads: nothing lies between the two. `bytes` need not be aligned; where
/// they are not, they are copied before.
pub fn tensor_from_bytes(bytes: &[u8], stored: Kind, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
    let count: i64 = shape.iter().product();
    let expected = count as usize * stored.elt_size_in_bytes();
    if bytes.len() != expected {
        return Err(Error::Torch(format!("{} bytes where {expected} make a tensor of shape {shape:?}", bytes.len())));
    }
    let is_aligned = bytes.as_ptr().addr().is_multiple_of(stored.elt_size_in_bytes());
    let source = match is_aligned && !bytes.is_empty() {
        true =>
        {
            #[expect(
                unsafe_code,
                reason = "`expected` readable bytes, aligned for `stored`, that are only read, and outlive the view"
            )]
            unsafe { Tensor::f_from_blob(bytes.as_ptr(), shape, &row_major(shape), stored, Device::Cpu) }?
        }
        false => Tensor::f_from_data_size(bytes, shape, stored)?,
    };
    match device {
        // Not `to`, which would hand the view back where there is nothing to convert.
        Device::Cpu => {
            let mut tensor = Tensor::f_empty(shape, (kind, Device::Cpu))?;
            prefer_large_pages(&tensor);
            tensor.f_copy_(&source)?;
            Ok(tensor)
        }
        device => Ok(source.f_to_device(device)?.f_to_kind(kind)?),
    }
}

/// Asks the system for pages of 2 MiB where a whole one fits into a tensor: weights of gigabytes are written to for the first time in half
/// the time, and read in two thirds. A system without such pages, or without one to spare, goes on with small ones.
#[cfg(target_os = "linux")]
fn prefer_large_pages(tensor: &Tensor) {
    const PAGE: usize = 2 << 20;
    let memory = tensor.data_ptr();
    let end = memory.addr() + tensor.numel() * tensor.kind().elt_size_in_bytes();
    let (first, end) = (memory.addr().next_multiple_of(PAGE), end / PAGE * PAGE);
    if first < end {
        #[expect(
            unsafe_code,
            reason = "advice on whole pages inside a tensor that is alive, which changes none of its bytes"
        )]
        let _ = unsafe { libc::madvise(memory.with_addr(first), end - first, libc::MADV_HUGEPAGE) };
    }
}

/// Other systems decide by themselves.
#[cfg(not(target_os = "linux"))]
fn prefer_large_pages(_: &Tensor) {}

/// How many elements lie between two neighbours of each dimension.
fn row_major(shape: &[i64]) -> Vec<i64> {
    let mut strides: Vec<i64> =
        shape.iter().rev().scan(1, |next, length| Some(std::mem::replace(next, *next * length))).collect();
    strides.reverse();
    strides
}

/// The tensor's values, row-major, little-endian, in its own kind.
pub fn tensor_to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let host = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let length = host.numel() * host.kind().elt_size_in_bytes();
    #[expect(unsafe_code, reason = "a contiguous CPU tensor is `length` readable bytes at `data_ptr`, alive here")]
    let bytes = unsafe { std::slice::from_raw_parts(host.data_ptr().cast::<u8>(), length) };
    Ok(if length == 0 { Vec::new() } else { bytes.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_made_of_bytes_wherever_they_lie_and_keeps_none_of_them() {
        let numbers = [1.0f32, -2.5, 3.25, 0.0, 65504.0, 1e-3];
        // One byte in front, so that one of the two is not aligned.
        for offset in [0, 1] {
            let mut bytes = vec![0; offset];
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            for kind in [Kind::Float, Kind::BFloat16, Kind::Half, Kind::Double] {
                let tensor = tensor_from_bytes(&bytes[offset..], Kind::Float, &[2, 3, 1], kind, Device::Cpu)
                    .expect("six numbers");
                bytes[offset..].fill(0xff);
                assert_eq!((tensor.kind(), tensor.size()), (kind, vec![2, 3, 1]));
                assert!(tensor.is_contiguous());
                let expected = Tensor::from_slice(&numbers).reshape([2, 3, 1]).to_kind(kind);
                assert!(tensor.equal(&expected), "{kind:?} at {offset}");
                bytes.truncate(offset);
                bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
        }
    }

    #[test]
    fn no_bytes_make_an_empty_tensor_and_a_wrong_number_none() {
        let empty = tensor_from_bytes(&[], Kind::Half, &[0, 4], Kind::Float, Device::Cpu).expect("nothing is needed");
        assert_eq!((empty.size(), empty.kind()), (vec![0, 4], Kind::Float));
        tensor_from_bytes(&[0; 7], Kind::Half, &[4], Kind::Half, Device::Cpu).expect_err("eight are needed");
    }
}
