//! Latents to pixels.

use super::VaeConfig;
use super::mid_block::{EPS, MidBlock, resnet_config};
use crate::builder::Builder;
use crate::error::Result;
use crate::layers::{Conv2d, GroupNorm, ResnetBlock2D, Upsample2D};
use std::rc::Rc;
use tch::Tensor;

#[derive(Debug)]
struct UpDecoderBlock {
    resnets: Vec<ResnetBlock2D>,
    upsampler: Option<Upsample2D>,
}

#[derive(Debug)]
pub(super) struct Decoder {
    conv_in: Rc<Conv2d>,
    mid_block: MidBlock,
    up_blocks: Vec<UpDecoderBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Rc<Conv2d>,
}

impl Decoder {
    pub fn new(b: &Builder, config: &VaeConfig) -> Result<Decoder> {
        let channels: Vec<i64> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let up_blocks = (0..channels.len())
            .map(|index| {
                let b = b.at("up_blocks").at(index);
                let (input, output) = (channels[index.saturating_sub(1)], channels[index]);
                let resnets = (0..=config.layers_per_block)
                    .map(|i| {
                        let from = if i == 0 { input } else { output };
                        ResnetBlock2D::new(&b.at("resnets").at(i), resnet_config(config, from, output))
                    })
                    .collect::<Result<_>>()?;
                let upsampler = (index + 1 < channels.len())
                    .then(|| Upsample2D::new(&b.at("upsamplers").at(0), output))
                    .transpose()?;
                Ok(UpDecoderBlock { resnets, upsampler })
            })
            .collect::<Result<_>>()?;
        Ok(Decoder {
            conv_in: b.at("conv_in").conv2d(config.latent_channels, first, 3, 1, 1)?,
            mid_block: MidBlock::new(&b.at("mid_block"), config)?,
            up_blocks,
            conv_norm_out: b.at("conv_norm_out").group_norm(config.norm_num_groups, last, EPS)?,
            conv_out: b.at("conv_out").conv2d(last, config.out_channels, 3, 1, 1)?,
        })
    }

    /// `[batch, latent_channels, h, w]` → `[batch, 3, h·f, w·f]`.
    pub fn forward(&self, latents: &Tensor) -> Tensor {
        let mut hidden = self.mid_block.forward(&self.conv_in.forward(latents));
        for block in &self.up_blocks {
            for resnet in &block.resnets {
                hidden = resnet.forward(&hidden, None);
            }
            if let Some(upsampler) = &block.upsampler {
                hidden = upsampler.forward(&hidden, None);
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&hidden))
    }
}
