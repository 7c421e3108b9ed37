//! A reader whose floating point tensors have another type.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};

use crate::Dtype;
use crate::error::{Error, Result, shown};
use crate::float8;
use crate::reader::{Reader, TensorInfo, floats_of, no_such_tensor};
use crate::single_file::is_needless;

/// Another reader's tensors, those of floating point in one type; integers are as they were.
pub struct Converted<R> {
    inner: R,
    tensors: BTreeMap<String, TensorInfo>,
}

impl<R: Reader> Converted<R> {
    /// Every tensor of floating point becomes `dtype`, which is any of them but F64 (one of 8 bits leaves those alone that no network
    /// has); numbers are rounded to nearest, ties to even.
    ///
    /// # Errors
    /// Where `dtype` is another type.
    pub fn new(inner: R, dtype: Dtype) -> Result<Converted<R>> {
        if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F8E4m3 | Dtype::F8E5m2) {
            let reason = format!("cannot be written as {dtype}; F32, F16, BF16, F8_E4M3 and F8_E5M2 can");
            return Err(Error::WrongKind { path: inner.path().to_path_buf(), reason });
        }
        let converted = |name: &str| {
            let info = inner.info(name).expect("a listed tensor has its info").clone();
            // Numbers of the noise schedule and of averaging, which original programs compute with: 8 bits would make some of them 0.
            let is_kept = dtype.size() == 1 && is_needless(name);
            let dtype = if info.dtype.is_float() && !is_kept { dtype } else { info.dtype };
            (name.to_string(), TensorInfo { dtype, ..info })
        };
        let tensors = inner.names().into_iter().map(converted).collect();
        Ok(Converted { inner, tensors })
    }
}

impl<R: Reader> Reader for Converted<R> {
    fn names(&self) -> Vec<&str> {
        self.inner.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// # Errors
    /// For a number that is finite and would not be any more, and for an infinity in F8_E4M3, which has none.
    fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let (Some(old), Some(new)) = (self.inner.info(name), self.tensors.get(name)) else {
            return Err(no_such_tensor(self.path(), name));
        };
        let bytes = self.inner.bytes(name)?;
        if old.dtype == new.dtype {
            return Ok(bytes);
        }
        let floats = floats_of(old.dtype, &bytes).expect("only floating point is converted");
        let is_lost = |number: &&f32| match new.dtype {
            Dtype::F16 => number.is_finite() && !f16::from_f32(**number).is_finite(),
            Dtype::Bf16 => number.is_finite() && !bf16::from_f32(**number).is_finite(),
            _ => old.dtype == Dtype::F64 && number.is_infinite(),
        };
        let lost = |number: f32| {
            let reason = format!("holds {number}, which {} cannot", new.dtype);
            Error::BrokenTensor {
                path: self.path().to_path_buf(),
                tensor: shown(self.inner.name_in_file(name)),
                reason,
            }
        };
        if let Some(&number) = floats.iter().find(is_lost) {
            return Err(lost(number));
        }
        let in_8_bits = |narrow: fn(f32) -> Option<u8>| -> Result<Vec<u8>> {
            floats.iter().map(|&number| narrow(number).ok_or_else(|| lost(number))).collect()
        };
        Ok(Cow::Owned(match new.dtype {
            Dtype::F16 => floats.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect(),
            Dtype::Bf16 => floats.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect(),
            Dtype::F8E4m3 => in_8_bits(float8::to_e4m3)?,
            Dtype::F8E5m2 => in_8_bits(float8::to_e5m2)?,
            _ => floats.iter().flat_map(|&number| number.to_le_bytes()).collect(),
        }))
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.inner.metadata()
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn name_in_file<'n>(&'n self, name: &'n str) -> &'n str {
        self.inner.name_in_file(name)
    }
}
