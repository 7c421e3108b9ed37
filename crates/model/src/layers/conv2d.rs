//! Two-dimensional convolution with an adapter slot.

use super::{AdapterSlot, as_kind};
use tch::Tensor;

/// Convolution with square kernel, stride and zero padding.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    /// Step of the window in both directions.
    pub stride: i64,
    /// Zeros added on each side.
    pub padding: i64,
    /// An adapter's delta is added to the output.
    pub slot: AdapterSlot,
}

impl Conv2d {
    pub(crate) fn new(weight: Tensor, bias: Tensor, stride: i64, padding: i64) -> Conv2d {
        Conv2d { weight, bias, stride, padding, slot: AdapterSlot::default() }
    }

    /// `[outputs, inputs, kernel, kernel]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[outputs]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// input: `[batch, inputs, height, width]` → `[batch, outputs, height', width']`.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        let bias = Some(as_kind(&self.bias, kind));
        let [s, p] = [self.stride, self.padding];
        let output = input.conv2d(&as_kind(&self.weight, kind), bias, [s, s], [p, p], [1, 1], 1);
        self.slot.apply(input, output)
    }
}
