//! One tensor of a file.

use crate::error::{Error, Result};
use crate::kinds::kind_of;
use sdtrain_state_dict::{Error as FileError, Reader};
use tch::{Device, Kind, Tensor};

/// The tensor `name` of `reader` on `device`, as `kind` or, without one, as it is stored.
pub fn read_tensor(reader: &dyn Reader, name: &str, kind: Option<Kind>, device: Device) -> Result<Tensor> {
    let path = || reader.path().to_path_buf();
    let info = reader.info(name).ok_or_else(|| FileError::NoSuchTensor { path: path(), tensor: name.to_string() })?;
    let stored =
        kind_of(info.dtype).ok_or_else(|| Error::Dtype { path: path(), name: name.to_string(), dtype: info.dtype })?;
    let shape: Vec<i64> = info.shape.iter().map(|&length| length as i64).collect();
    Ok(sdtrain_torch::tensor_from_bytes(&reader.bytes(name)?, stored, &shape, kind.unwrap_or(stored), device)?)
}
