//! Tensors from bytes and back: the only copies between a file and a parameter.

use crate::error::{Error, Result};
use tch::{Device, Kind, Tensor};

/// A tensor of `kind` on `device` with the values that `bytes` holds as little-endian `stored` numbers.
///
/// One tensor is converted at a time, so loading a model never holds two copies of it. `bytes` need not be aligned.
pub fn tensor_from_bytes(bytes: &[u8], stored: Kind, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
    let count: i64 = shape.iter().product();
    let expected = count as usize * stored.elt_size_in_bytes();
    if bytes.len() != expected {
        return Err(Error::Torch(format!("{} bytes where {expected} make a tensor of shape {shape:?}", bytes.len())));
    }
    let host = Tensor::f_from_data_size(bytes, shape, stored)?;
    Ok(host.f_to_device(device)?.f_to_kind(kind)?)
}

/// The tensor's values, row-major, little-endian, in its own kind.
pub fn tensor_to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let host = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let length = host.numel() * host.kind().elt_size_in_bytes();
    #[expect(unsafe_code, reason = "a contiguous CPU tensor is `length` readable bytes at `data_ptr`, alive here")]
    let bytes = unsafe { std::slice::from_raw_parts(host.data_ptr().cast::<u8>(), length) };
    Ok(if length == 0 { Vec::new() } else { bytes.to_vec() })
}
