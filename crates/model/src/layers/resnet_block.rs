//! Residual block with optional timestep input (diffusers: `ResnetBlock2D`).

use super::{Conv2d, GroupNorm, Linear};
use crate::builder::Builder;
use crate::error::Result;
use std::rc::Rc;
use tch::Tensor;

/// Sizes of one residual block.
#[derive(Debug, Clone, Copy)]
pub struct ResnetConfig {
    /// Channels coming in.
    pub in_channels: i64,
    /// Channels going out; a 1×1 convolution joins the two where they differ.
    pub out_channels: i64,
    /// Size of the timestep embedding; the VAE has none.
    pub temb_channels: Option<i64>,
    /// Groups of both norms.
    pub groups: i64,
    /// Epsilon of both norms: 1e-5 in the UNet, 1e-6 in the VAE.
    pub eps: f64,
}

/// Norm, SiLU, convolution, timestep, norm, SiLU, convolution, plus the input.
#[derive(Debug)]
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Rc<Conv2d>,
    time_emb_proj: Option<Rc<Linear>>,
    norm2: GroupNorm,
    conv2: Rc<Conv2d>,
    conv_shortcut: Option<Rc<Conv2d>>,
}

impl ResnetBlock2D {
    /// The block at `b`.
    pub fn new(b: &Builder, config: ResnetConfig) -> Result<ResnetBlock2D> {
        let ResnetConfig { in_channels, out_channels, temb_channels, groups, eps } = config;
        Ok(ResnetBlock2D {
            norm1: b.at("norm1").group_norm(groups, in_channels, eps)?,
            conv1: b.at("conv1").conv2d(in_channels, out_channels, 3, 1, 1)?,
            time_emb_proj: temb_channels
                .map(|size| b.at("time_emb_proj").linear(size, out_channels, true))
                .transpose()?,
            norm2: b.at("norm2").group_norm(groups, out_channels, eps)?,
            conv2: b.at("conv2").conv2d(out_channels, out_channels, 3, 1, 1)?,
            conv_shortcut: (in_channels != out_channels)
                .then(|| b.at("conv_shortcut").conv2d(in_channels, out_channels, 1, 1, 0))
                .transpose()?,
        })
    }

    /// input: `[batch, in, height, width]`, temb: `[batch, temb]` → `[batch, out, height, width]`.
    pub fn forward(&self, input: &Tensor, temb: Option<&Tensor>) -> Tensor {
        let hidden = self.conv1.forward(&self.norm1.forward_silu(input));
        let hidden = match (&self.time_emb_proj, temb) {
            (Some(projection), Some(temb)) => hidden + projection.forward(&temb.silu()).unsqueeze(-1).unsqueeze(-1),
            _ => hidden,
        };
        let hidden = self.conv2.forward(&self.norm2.forward_silu(&hidden));
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(input) + hidden,
            None => input + hidden,
        }
    }
}
