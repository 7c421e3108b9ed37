//! Block-wise dynamic quantisation of fp32 tensors to 8 bits (Dettmers et al. 2022, arXiv:2110.02861, sections 1.3 and 2.1):
//! each block of 256 numbers is divided by its largest, and each quotient becomes the nearest of 256 values.

use crate::update::Commit;
use sdtrain_recipe::AdamW8bitConfig;
use sdtrain_torch::{CodeMap, QuantizedMoment};
use tch::{Device, Kind, Tensor};

const BLOCK: i64 = AdamW8bitConfig::BLOCK_SIZE as i64;

/// The 256 values for numbers of both signs, rising from -1 to 1.
pub(crate) fn signed_map(device: Device) -> CodeMap {
    CodeMap::new(&dynamic_values(true), device)
}

/// The 256 values for numbers that are not negative, rising from 0 to 1.
pub(crate) fn unsigned_map(device: Device) -> CodeMap {
    CodeMap::new(&dynamic_values(false), device)
}

/// Dynamic tree quantisation: seven decades from 1 down to 1e-6, each with half as many values as the one above it; and
/// 0 and 1. The values of a decade are the middles of equal parts of 0.1 to 1 times its top.
fn dynamic_values(signed: bool) -> [f32; 256] {
    const DECADES: i32 = 7;
    let mut values = vec![0.0, 1.0];
    for decade in 0..DECADES {
        let parts = 1 << if signed { decade } else { decade + 1 };
        let top = 10f64.powi(decade + 1 - DECADES);
        // linspace(0.1, 1) in single precision, as the reference has it.
        let boundary = |at: i32| (0.1 + 0.9 * f64::from(at) / f64::from(parts)) as f32;
        for part in 0..parts {
            let middle = (top * f64::from((boundary(part) + boundary(part + 1)) / 2.0)) as f32;
            values.push(middle);
            if signed {
                values.push(-middle);
            }
        }
    }
    values.sort_by(f32::total_cmp);
    values.try_into().expect("seven decades, 0 and 1 are 256 values")
}

/// A tensor in 8 bits a number.
pub(crate) struct Quantized {
    /// Which value each number is; u8, in the tensor's own order.
    pub codes: Tensor,
    /// The largest absolute number of each block.
    pub largest: Tensor,
}

impl Quantized {
    /// Zeros for a parameter.
    pub fn zeros(parameter: &Tensor, map: &CodeMap) -> Quantized {
        let (numbers, device) = (parameter.numel() as i64, parameter.device());
        let zero = map.values.eq(0.0).to_kind(Kind::Int).argmax(None, false).int64_value(&[]);
        Quantized {
            codes: Tensor::full([numbers], zero, (Kind::Uint8, device)),
            largest: Tensor::zeros([(numbers + BLOCK - 1) / BLOCK], (Kind::Float, device)),
        }
    }

    /// As the kernel takes it.
    pub fn moment<'t>(&'t self, map: &'t CodeMap) -> QuantizedMoment<'t> {
        QuantizedMoment { codes: &self.codes, largest: &self.largest, map }
    }

    /// The numbers, in the shape of `parameter`.
    pub fn read(&self, map: &CodeMap, parameter: &Tensor) -> Tensor {
        let values = map.values.index_select(0, &self.codes.to_kind(Kind::Int));
        let numbers = in_blocks(&values) * self.largest.unsqueeze(1);
        numbers.flatten(0, -1).slice(0, 0, self.codes.numel() as i64, 1).view_as(parameter)
    }

    /// Takes the place of the numbers.
    pub fn write(&self, numbers: &Tensor, map: &CodeMap, commit: &Commit) {
        let blocks = in_blocks(&numbers.flatten(0, -1));
        let largest = blocks.abs().amax([1i64].as_slice(), true);
        // A block of zeros stays one.
        let quotients = blocks * largest.clamp_min(f64::from(f32::MIN_POSITIVE)).reciprocal();
        let quotients = quotients.flatten(0, -1).slice(0, 0, self.codes.numel() as i64, 1);
        let codes = quotients.bucketize(&map.middles.slice(0, 0, 255, 1), true, false);
        commit.write(&self.codes, &codes.to_kind(Kind::Uint8));
        commit.write(&self.largest, &largest.squeeze_dim(1));
    }
}

/// A flat tensor as rows of one block, the last one filled up with zeros.
fn in_blocks(flat: &Tensor) -> Tensor {
    let missing = (BLOCK - flat.numel() as i64 % BLOCK) % BLOCK;
    let filled = if missing == 0 { flat.shallow_clone() } else { flat.constant_pad_nd([0, missing]) };
    filled.reshape([-1, BLOCK])
}
