//! Pixels to the moments of the latents.

use super::VaeConfig;
use super::mid_block::{EPS, MidBlock, resnet_config};
use crate::builder::Builder;
use crate::error::Result;
use crate::layers::{Conv2d, Downsample2D, GroupNorm, ResnetBlock2D};
use std::rc::Rc;
use tch::Tensor;

#[derive(Debug)]
struct DownEncoderBlock {
    resnets: Vec<ResnetBlock2D>,
    downsampler: Option<Downsample2D>,
}

#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: Rc<Conv2d>,
    down_blocks: Vec<DownEncoderBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Rc<Conv2d>,
}

impl Encoder {
    pub fn new(b: &Builder, config: &VaeConfig) -> Result<Encoder> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let down_blocks = (0..channels.len())
            .map(|level| {
                let b = b.at("down_blocks").at(level);
                let (input, output) = (channels[level.saturating_sub(1)], channels[level]);
                let resnets = (0..config.layers_per_block)
                    .map(|i| {
                        let from = if i == 0 { input } else { output };
                        ResnetBlock2D::new(&b.at("resnets").at(i), resnet_config(config, from, output))
                    })
                    .collect::<Result<_>>()?;
                let downsampler = (level + 1 < channels.len())
                    .then(|| Downsample2D::new(&b.at("downsamplers").at(0), output, 0))
                    .transpose()?;
                Ok(DownEncoderBlock { resnets, downsampler })
            })
            .collect::<Result<_>>()?;
        Ok(Encoder {
            conv_in: b.at("conv_in").conv2d(config.in_channels, first, 3, 1, 1)?,
            down_blocks,
            mid_block: MidBlock::new(&b.at("mid_block"), config)?,
            conv_norm_out: b.at("conv_norm_out").group_norm(config.norm_num_groups, last, EPS)?,
            conv_out: b.at("conv_out").conv2d(last, 2 * config.latent_channels, 3, 1, 1)?,
        })
    }

    /// `[batch, 3, height, width]` → `[batch, 2·latent_channels, height/f, width/f]`.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let mut hidden = self.conv_in.forward(pixels);
        for block in &self.down_blocks {
            for resnet in &block.resnets {
                hidden = resnet.forward(&hidden, None);
            }
            if let Some(downsampler) = &block.downsampler {
                hidden = downsampler.forward(&hidden);
            }
        }
        let hidden = self.mid_block.forward(&hidden);
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&hidden))
    }
}
