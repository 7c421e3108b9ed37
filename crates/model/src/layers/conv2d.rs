//! Two-dimensional convolution with an adapter slot.

use super::{AdapterSlot, as_kind};
use sdtrain_torch::{or_panic, unfolded_conv2d};
use tch::{Device, Kind, Tensor};

/// From how many weights on, for each pixel of the output, a convolution in host memory is one product of matrices: where the two took the
/// same time for the UNet's layers, on a processor with AVX-512 (docs/log.md). The product of fp32 is MKL's, half as fast as oneDNN's.
const WEIGHTS_OF_A_PIXEL: i64 = 40_000;
const WEIGHTS_OF_A_PIXEL_BF16: i64 = 6_000;

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

    /// Whether one product of matrices takes less time than a convolution, which first brings all weights into an order of its own: where
    /// there are many of them to a pixel. A rule and no measurement, so that the same run takes the same way each time.
    fn is_unfolded_for(&self, input: &Tensor) -> bool {
        let least = match input.kind() {
            Kind::BFloat16 => WEIGHTS_OF_A_PIXEL_BF16,
            Kind::Float => WEIGHTS_OF_A_PIXEL,
            _ => return false,
        };
        let Ok((batch, _, height, width)) = input.size4() else { return false };
        let pixels = batch * (height / self.stride).max(1) * (width / self.stride).max(1);
        input.device() == Device::Cpu && self.weight.numel() as i64 >= least * pixels
    }

    /// input: `[batch, inputs, height, width]` → `[batch, outputs, height', width']`.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        let (weight, bias) = (as_kind(&self.weight, kind), as_kind(&self.bias, kind));
        let [s, p] = [self.stride, self.padding];
        let output = match self.is_unfolded_for(input) {
            true => or_panic(unfolded_conv2d(input, &weight, &bias, s, p)),
            false => input.conv2d(&weight, Some(bias), [s, s], [p, p], [1, 1], 1),
        };
        self.slot.apply(input, output)
    }
}
