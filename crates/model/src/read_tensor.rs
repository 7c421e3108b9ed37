//! One tensor of a file.

use crate::error::{Error, Result};
use crate::kinds::kind_of;
use sdtrain_state_dict::{Dtype, Error as FileError, Reader, TensorInfo, check_finite, floats_of};
use tch::{Device, Kind, Tensor};

/// The tensor `name` of `reader` on `device`, as `kind` or, without one, as it is stored.
pub fn read_tensor(reader: &dyn Reader, name: &str, kind: Option<Kind>, device: Device) -> Result<Tensor> {
    let info = info_of(reader, name)?;
    made_of(&reader.bytes(name)?, info, reader, name, kind, device)
}

/// The same for a weight, of which all numbers must be finite as they are stored.
///
/// # Errors
/// Also where one is not.
pub fn read_weight(reader: &dyn Reader, name: &str, kind: Kind, device: Device) -> Result<Tensor> {
    let info = info_of(reader, name)?;
    let bytes = reader.bytes(name)?;
    check_finite(reader, name, &bytes)?;
    made_of(&bytes, info, reader, name, Some(kind), device)
}

fn info_of<'r>(reader: &'r dyn Reader, name: &str) -> Result<&'r TensorInfo> {
    let missing = || FileError::NoSuchTensor { path: reader.path().to_path_buf(), tensor: name.to_string() };
    Ok(reader.info(name).ok_or_else(missing)?)
}

/// The tensor `name` of `reader`, whose `bytes` were read.
fn made_of(
    bytes: &[u8],
    info: &TensorInfo,
    reader: &dyn Reader,
    name: &str,
    kind: Option<Kind>,
    device: Device,
) -> Result<Tensor> {
    let path = || reader.path().to_path_buf();
    let shape: Vec<i64> = info.shape.iter().map(|&length| length as i64).collect();
    if matches!(info.dtype, Dtype::F8E4m3 | Dtype::F8E5m2) {
        // Computed with nowhere: they become what the network is computed in, and f32 where nobody asks for another type.
        let floats = floats_of(info.dtype, bytes).expect("it is a floating point type");
        let tensor = Tensor::f_from_slice(&floats)?.f_reshape(&shape)?;
        return Ok(tensor.f_to_device(device)?.f_to_kind(kind.unwrap_or(Kind::Float))?);
    }
    let stored =
        kind_of(info.dtype).ok_or_else(|| Error::Dtype { path: path(), name: name.to_string(), dtype: info.dtype })?;
    Ok(sdtrain_torch::tensor_from_bytes(bytes, stored, &shape, kind.unwrap_or(stored), device)?)
}
