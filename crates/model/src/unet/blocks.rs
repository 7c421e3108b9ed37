//! The UNet's levels on the way down, in the middle and on the way up.

use super::UNetConfig;
use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::layers::{
    Downsample2D, ResnetBlock2D, ResnetConfig, Transformer2DModel, TransformerConfig, Upsample2D,
};
use sdtrain_torch::gradient_checkpoint;
use std::rc::Rc;
use tch::Tensor;

/// What every block of one forward pass is given.
pub(super) struct Call<'a> {
    pub temb: &'a Tensor,
    pub context: &'a Tensor,
    pub gradient_checkpointing: bool,
}

impl Call<'_> {
    fn resnet(&self, resnet: &Rc<ResnetBlock2D>, hidden: &Tensor) -> Tensor {
        if !self.gradient_checkpointing {
            return resnet.forward(hidden, Some(self.temb));
        }
        let resnet = resnet.clone();
        rerun(&[hidden, self.temb], move |inputs| resnet.forward(&inputs[0], Some(&inputs[1])))
    }

    fn attention(&self, attention: &Rc<Transformer2DModel>, hidden: &Tensor) -> Tensor {
        if !self.gradient_checkpointing {
            return attention.forward(hidden, self.context);
        }
        let attention = attention.clone();
        rerun(&[hidden, self.context], move |inputs| attention.forward(&inputs[0], &inputs[1]))
    }
}

/// A checkpointed call; its error panics like every other operator of a forward pass (see `sdtrain_torch::catch`).
fn rerun(inputs: &[&Tensor], block: impl Fn(&[Tensor]) -> Tensor + 'static) -> Tensor {
    gradient_checkpoint(inputs, block).unwrap_or_else(|error| std::panic::panic_any(error.to_string()))
}

fn resnet_config(config: &UNetConfig, in_channels: i64, out_channels: i64) -> ResnetConfig {
    ResnetConfig {
        in_channels,
        out_channels,
        temb_channels: Some(config.block_out_channels[0] * 4),
        groups: config.norm_num_groups,
        eps: config.norm_eps,
    }
}

fn transformer_config(config: &UNetConfig, level: usize) -> TransformerConfig {
    TransformerConfig {
        channels: config.block_out_channels[level],
        heads: config.heads(level),
        layers: config.transformer_layers_per_block.at(level),
        cross_attention_dim: config.cross_attention_dim,
        groups: config.norm_num_groups,
        use_linear_projection: config.use_linear_projection,
        upcast_attention: config.upcast_attention,
    }
}

/// Whether the block kind `name` has attention: `with` or `without` are its two known names.
fn has_attention(name: &str, with: &str, without: &str) -> Result<bool> {
    match name {
        _ if name == with => Ok(true),
        _ if name == without => Ok(false),
        _ => Err(Error::Config(format!("unet/config.json: block type `{name}` is not supported; known: {with}, {without}"))),
    }
}

fn attentions(b: &Builder, config: &UNetConfig, level: usize, count: i64) -> Result<Vec<Rc<Transformer2DModel>>> {
    let transformer = transformer_config(config, level);
    (0..count).map(|i| Transformer2DModel::new(&b.at("attentions").at(i), &transformer).map(Rc::new)).collect()
}

/// Residual blocks, each with its transformer where the level has attention, then half the size.
#[derive(Debug)]
pub(super) struct DownBlock {
    resnets: Vec<Rc<ResnetBlock2D>>,
    attentions: Vec<Rc<Transformer2DModel>>,
    downsampler: Option<Downsample2D>,
}

impl DownBlock {
    pub fn new(b: &Builder, config: &UNetConfig, level: usize) -> Result<DownBlock> {
        let channels = &config.block_out_channels;
        let (input, output) = (channels[level.saturating_sub(1)], channels[level]);
        let layers = config.layers_per_block.at(level);
        let attention = has_attention(&config.down_block_types[level], "CrossAttnDownBlock2D", "DownBlock2D")?;
        let resnets = (0..layers)
            .map(|i| {
                let from = if i == 0 { input } else { output };
                ResnetBlock2D::new(&b.at("resnets").at(i), resnet_config(config, from, output)).map(Rc::new)
            })
            .collect::<Result<_>>()?;
        Ok(DownBlock {
            resnets,
            attentions: attentions(b, config, level, if attention { layers } else { 0 })?,
            downsampler: (level + 1 < channels.len())
                .then(|| Downsample2D::new(&b.at("downsamplers").at(0), output, 1))
                .transpose()?,
        })
    }

    pub fn forward(&self, mut hidden: Tensor, call: &Call, skips: &mut Vec<Tensor>) -> Tensor {
        for (i, resnet) in self.resnets.iter().enumerate() {
            hidden = call.resnet(resnet, &hidden);
            if let Some(attention) = self.attentions.get(i) {
                hidden = call.attention(attention, &hidden);
            }
            skips.push(hidden.shallow_clone());
        }
        if let Some(downsampler) = &self.downsampler {
            hidden = downsampler.forward(&hidden);
            skips.push(hidden.shallow_clone());
        }
        hidden
    }
}

/// Residual block, transformer, residual block.
#[derive(Debug)]
pub(super) struct MidBlock {
    resnets: [Rc<ResnetBlock2D>; 2],
    attention: Rc<Transformer2DModel>,
}

impl MidBlock {
    pub fn new(b: &Builder, config: &UNetConfig) -> Result<MidBlock> {
        let level = config.block_out_channels.len() - 1;
        let channels = config.block_out_channels[level];
        let resnet = |i: usize| {
            ResnetBlock2D::new(&b.at("resnets").at(i), resnet_config(config, channels, channels)).map(Rc::new)
        };
        Ok(MidBlock {
            resnets: [resnet(0)?, resnet(1)?],
            attention: Rc::new(Transformer2DModel::new(&b.at("attentions").at(0), &transformer_config(config, level))?),
        })
    }

    pub fn forward(&self, hidden: Tensor, call: &Call) -> Tensor {
        let hidden = call.resnet(&self.resnets[0], &hidden);
        let hidden = call.attention(&self.attention, &hidden);
        call.resnet(&self.resnets[1], &hidden)
    }
}

/// Residual blocks over the joined skip connections, then double the size.
#[derive(Debug)]
pub(super) struct UpBlock {
    resnets: Vec<Rc<ResnetBlock2D>>,
    attentions: Vec<Rc<Transformer2DModel>>,
    upsampler: Option<Upsample2D>,
}

impl UpBlock {
    /// Block `index` on the way up works at level `last - index`.
    pub fn new(b: &Builder, config: &UNetConfig, index: usize) -> Result<UpBlock> {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let level = last - index;
        let output = channels[level];
        let below = channels[(level + 1).min(last)];
        let outermost_skip = channels[level.saturating_sub(1)];
        let layers = config.layers_per_block.at(level) + 1;
        let attention = has_attention(&config.up_block_types[index], "CrossAttnUpBlock2D", "UpBlock2D")?;
        let resnets = (0..layers)
            .map(|i| {
                let skip = if i == layers - 1 { outermost_skip } else { output };
                let from = if i == 0 { below } else { output };
                ResnetBlock2D::new(&b.at("resnets").at(i), resnet_config(config, from + skip, output)).map(Rc::new)
            })
            .collect::<Result<_>>()?;
        Ok(UpBlock {
            resnets,
            attentions: attentions(b, config, level, if attention { layers } else { 0 })?,
            upsampler: (index < last).then(|| Upsample2D::new(&b.at("upsamplers").at(0), output)).transpose()?,
        })
    }

    pub fn forward(&self, mut hidden: Tensor, call: &Call, skips: &mut Vec<Tensor>) -> Tensor {
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().expect("the way down leaves one skip connection for every block on the way up");
            hidden = call.resnet(resnet, &Tensor::cat(&[hidden, skip], 1));
            if let Some(attention) = self.attentions.get(i) {
                hidden = call.attention(attention, &hidden);
            }
        }
        match &self.upsampler {
            Some(upsampler) => {
                let size = skips.last().and_then(|s| s.size4().ok()).map(|(_, _, height, width)| (height, width));
                upsampler.forward(&hidden, size)
            }
            None => hidden,
        }
    }
}
