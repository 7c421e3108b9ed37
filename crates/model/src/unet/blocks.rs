//! The UNet's levels on the way down, in the middle and on the way up.

use crate::builder::Builder;
use crate::error::Result;
use crate::layers::{Downsample2D, ResnetBlock2D, ResnetConfig, Transformer2DModel, TransformerConfig, Upsample2D};
use sdtrain_torch::{gradient_checkpoint, or_panic};
use std::rc::Rc;
use tch::Tensor;

/// Sizes and variants of one block.
#[derive(Debug, Clone, Copy)]
pub struct BlockConfig {
    /// Channels coming in, without skip connections.
    pub in_channels: i64,
    /// Channels going out.
    pub out_channels: i64,
    /// Size of the timestep embedding.
    pub temb_channels: i64,
    /// Residual blocks; the middle always has two.
    pub layers: i64,
    /// Groups of the residual blocks' norms.
    pub groups: i64,
    /// Epsilon of the residual blocks' norms.
    pub eps: f64,
    /// The transformer behind each residual block (in the middle: between them), where the block has attention.
    pub transformer: Option<TransformerConfig>,
    /// Whether a down block halves height and width at its end, and an up block doubles them.
    pub resample: bool,
}

impl BlockConfig {
    fn resnet(&self, in_channels: i64) -> ResnetConfig {
        ResnetConfig {
            in_channels,
            out_channels: self.out_channels,
            temb_channels: Some(self.temb_channels),
            groups: self.groups,
            eps: self.eps,
        }
    }

    fn attentions(&self, b: &Builder, count: i64) -> Result<Vec<Rc<Transformer2DModel>>> {
        let Some(transformer) = &self.transformer else { return Ok(Vec::new()) };
        (0..count).map(|i| Transformer2DModel::new(&b.at("attentions").at(i), transformer).map(Rc::new)).collect()
    }
}

/// What every block of one forward pass is given.
#[derive(Debug, Clone, Copy)]
pub struct Conditions<'a> {
    /// The timestep's embedding, `[batch, temb_channels]`.
    pub temb: &'a Tensor,
    /// What the attentions look at, `[batch, tokens, cross_attention_dim]`.
    pub context: &'a Tensor,
    /// Each residual block and each transformer is run again in backward.
    pub gradient_checkpointing: bool,
}

// A block that is run again in backward adds up the gradients of its input before they meet those of other users of
// that input. The aliases make a plain block do the same, so that both have the same bits.
impl Conditions<'_> {
    fn resnet(&self, resnet: &Rc<ResnetBlock2D>, hidden: &Tensor) -> Tensor {
        if !self.gradient_checkpointing {
            return resnet.forward(&hidden.alias(), Some(&self.temb.alias()));
        }
        let resnet = resnet.clone();
        rerun(&[hidden, self.temb], move |inputs| resnet.forward(&inputs[0], Some(&inputs[1])))
    }

    fn attention(&self, attention: &Rc<Transformer2DModel>, hidden: &Tensor) -> Tensor {
        if !self.gradient_checkpointing {
            return attention.forward(&hidden.alias(), &self.context.alias());
        }
        let attention = attention.clone();
        rerun(&[hidden, self.context], move |inputs| attention.forward(&inputs[0], &inputs[1]))
    }
}

/// A checkpointed call; its error panics like every other operator of a forward pass (see `sdtrain_torch::catch`).
fn rerun(inputs: &[&Tensor], block: impl Fn(&[Tensor]) -> Tensor + 'static) -> Tensor {
    or_panic(gradient_checkpoint(inputs, block))
}

/// Residual blocks, each with its transformer, then half the size.
#[derive(Debug)]
pub struct DownBlock {
    resnets: Vec<Rc<ResnetBlock2D>>,
    attentions: Vec<Rc<Transformer2DModel>>,
    downsampler: Option<Downsample2D>,
}

impl DownBlock {
    /// The block at `b`.
    pub fn new(b: &Builder, config: &BlockConfig) -> Result<DownBlock> {
        let resnets = (0..config.layers)
            .map(|i| {
                let from = if i == 0 { config.in_channels } else { config.out_channels };
                ResnetBlock2D::new(&b.at("resnets").at(i), config.resnet(from)).map(Rc::new)
            })
            .collect::<Result<_>>()?;
        Ok(DownBlock {
            resnets,
            attentions: config.attentions(b, config.layers)?,
            downsampler: config
                .resample
                .then(|| Downsample2D::new(&b.at("downsamplers").at(0), config.out_channels, 1))
                .transpose()?,
        })
    }

    /// hidden: `[batch, in_channels, height, width]` → `[batch, out_channels, …]`. Every state that an up block will
    /// want is pushed onto `skips`.
    pub fn forward(&self, mut hidden: Tensor, conditions: &Conditions, skips: &mut Vec<Tensor>) -> Tensor {
        for (i, resnet) in self.resnets.iter().enumerate() {
            hidden = conditions.resnet(resnet, &hidden);
            if let Some(attention) = self.attentions.get(i) {
                hidden = conditions.attention(attention, &hidden);
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
pub struct MidBlock {
    resnets: [Rc<ResnetBlock2D>; 2],
    attentions: Vec<Rc<Transformer2DModel>>,
}

impl MidBlock {
    /// The block at `b`.
    pub fn new(b: &Builder, config: &BlockConfig) -> Result<MidBlock> {
        let resnet =
            |i: usize| ResnetBlock2D::new(&b.at("resnets").at(i), config.resnet(config.out_channels)).map(Rc::new);
        Ok(MidBlock { resnets: [resnet(0)?, resnet(1)?], attentions: config.attentions(b, 1)? })
    }

    /// `[batch, channels, height, width]`, same shape out.
    pub fn forward(&self, hidden: Tensor, conditions: &Conditions) -> Tensor {
        let mut hidden = conditions.resnet(&self.resnets[0], &hidden);
        for attention in &self.attentions {
            hidden = conditions.attention(attention, &hidden);
        }
        conditions.resnet(&self.resnets[1], &hidden)
    }
}

/// Residual blocks over the joined skip connections, each with its transformer, then double the size.
#[derive(Debug)]
pub struct UpBlock {
    resnets: Vec<Rc<ResnetBlock2D>>,
    attentions: Vec<Rc<Transformer2DModel>>,
    upsampler: Option<Upsample2D>,
}

impl UpBlock {
    /// The block at `b`. The skip connection of its last residual block has `last_skip_channels`, the others have
    /// `out_channels`.
    pub fn new(b: &Builder, config: &BlockConfig, last_skip_channels: i64) -> Result<UpBlock> {
        let resnets = (0..config.layers)
            .map(|i| {
                let skip = if i == config.layers - 1 { last_skip_channels } else { config.out_channels };
                let from = if i == 0 { config.in_channels } else { config.out_channels };
                ResnetBlock2D::new(&b.at("resnets").at(i), config.resnet(from + skip)).map(Rc::new)
            })
            .collect::<Result<_>>()?;
        Ok(UpBlock {
            resnets,
            attentions: config.attentions(b, config.layers)?,
            upsampler: config
                .resample
                .then(|| Upsample2D::new(&b.at("upsamplers").at(0), config.out_channels))
                .transpose()?,
        })
    }

    /// Takes its skip connections off the end of `skips`, and doubles to the size of the one that is then the last.
    pub fn forward(&self, mut hidden: Tensor, conditions: &Conditions, skips: &mut Vec<Tensor>) -> Tensor {
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().expect("the way down leaves one skip connection for every block on the way up");
            hidden = conditions.resnet(resnet, &Tensor::cat(&[hidden, skip], 1));
            if let Some(attention) = self.attentions.get(i) {
                hidden = conditions.attention(attention, &hidden);
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
