//! Residual block, attention, residual block: the middle of encoder and decoder.

use super::VaeConfig;
use crate::builder::Builder;
use crate::error::Result;
use crate::layers::{ResnetBlock2D, ResnetConfig, SpatialAttention};
use tch::Tensor;

/// Epsilon of every norm of the VAE.
pub(super) const EPS: f64 = 1e-6;

pub(super) fn resnet_config(config: &VaeConfig, in_channels: i64, out_channels: i64) -> ResnetConfig {
    ResnetConfig { in_channels, out_channels, temb_channels: None, groups: config.norm_num_groups, eps: EPS }
}

#[derive(Debug)]
pub(super) struct MidBlock {
    resnets: [ResnetBlock2D; 2],
    attention: Option<SpatialAttention>,
}

impl MidBlock {
    pub fn new(b: &Builder, config: &VaeConfig) -> Result<MidBlock> {
        let channels = *config.block_out_channels.last().expect("checked: there is a level");
        let resnet = |i: usize| ResnetBlock2D::new(&b.at("resnets").at(i), resnet_config(config, channels, channels));
        Ok(MidBlock {
            resnets: [resnet(0)?, resnet(1)?],
            attention: config
                .mid_block_add_attention
                .then(|| SpatialAttention::new(&b.at("attentions").at(0), channels, config.norm_num_groups))
                .transpose()?,
        })
    }

    pub fn forward(&self, input: &Tensor) -> Tensor {
        let mut hidden = self.resnets[0].forward(input, None);
        if let Some(attention) = &self.attention {
            hidden = attention.forward(&hidden);
        }
        self.resnets[1].forward(&hidden, None)
    }
}
