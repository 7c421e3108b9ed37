//! Halving and doubling of height and width (diffusers: `Downsample2D`, `Upsample2D`).

use super::Conv2d;
use crate::builder::Builder;
use crate::error::Result;
use std::rc::Rc;
use tch::Tensor;

/// Convolution with stride 2.
#[derive(Debug)]
pub struct Downsample2D {
    conv: Rc<Conv2d>,
    padding: i64,
}

impl Downsample2D {
    /// Padding 1 is the UNet's; with 0 the VAE's encoder pads one row below and one column to the right instead.
    pub fn new(b: &Builder, channels: i64, padding: i64) -> Result<Downsample2D> {
        Ok(Downsample2D { conv: b.at("conv").conv2d(channels, channels, 3, 2, padding)?, padding })
    }

    /// `[batch, channels, height, width]` → half of both.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        match self.padding {
            0 => self.conv.forward(&input.constant_pad_nd([0, 1, 0, 1])),
            _ => self.conv.forward(input),
        }
    }
}

/// Nearest neighbour, then convolution.
#[derive(Debug)]
pub struct Upsample2D {
    conv: Rc<Conv2d>,
}

impl Upsample2D {
    /// The block at `b`.
    pub fn new(b: &Builder, channels: i64) -> Result<Upsample2D> {
        Ok(Upsample2D { conv: b.at("conv").conv2d(channels, channels, 3, 1, 1)? })
    }

    /// To `size` (height, width) where given (odd sizes meet their skip connection), else to double.
    pub fn forward(&self, input: &Tensor, size: Option<(i64, i64)>) -> Tensor {
        let (_, _, height, width) = input.size4().expect("activations have four dimensions");
        let (height, width) = size.unwrap_or((height * 2, width * 2));
        self.conv.forward(&input.upsample_nearest2d([height, width], None, None))
    }
}
