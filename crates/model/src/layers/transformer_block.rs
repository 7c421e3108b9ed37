//! Attention and feed-forward over the pixels of a feature map (diffusers: `Transformer2DModel`).

use super::{Attention, AttentionConfig, Conv2d, GroupNorm, LayerNorm, Linear};
use crate::builder::Builder;
use crate::error::Result;
use sdtrain_torch::{geglu, or_panic};
use std::rc::Rc;
use tch::Tensor;

/// Sizes and variants of one transformer.
#[derive(Debug, Clone, Copy)]
pub struct TransformerConfig {
    /// Channels of the feature map.
    pub channels: i64,
    /// Number of heads; each has channels / heads.
    pub heads: i64,
    /// Number of blocks.
    pub layers: i64,
    /// Size of the text states.
    pub cross_attention_dim: i64,
    /// Groups of the norm.
    pub groups: i64,
    /// `proj_in` and `proj_out` are linear (SD2, SDXL) instead of 1×1 convolutions (SD1).
    pub use_linear_projection: bool,
}

/// Self-attention, cross-attention and GEGLU, each behind a layer norm and around a residual.
#[derive(Debug)]
pub struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Rc<Linear>,
    ff_out: Rc<Linear>,
}

impl BasicTransformerBlock {
    /// The block at `b`.
    pub fn new(b: &Builder, config: &TransformerConfig) -> Result<BasicTransformerBlock> {
        let size = config.channels;
        let attention = |cross_attention_dim| AttentionConfig {
            query_dim: size,
            cross_attention_dim,
            heads: config.heads,
            dim_head: size / config.heads,
            bias: false,
        };
        Ok(BasicTransformerBlock {
            norm1: b.at("norm1").layer_norm(size, 1e-5)?,
            attn1: Attention::new(&b.at("attn1"), attention(None))?,
            norm2: b.at("norm2").layer_norm(size, 1e-5)?,
            attn2: Attention::new(&b.at("attn2"), attention(Some(config.cross_attention_dim)))?,
            norm3: b.at("norm3").layer_norm(size, 1e-5)?,
            // GEGLU makes value and gate at once: 2 × 4 × size.
            ff_in: b.at("ff.net.0.proj").linear(size, size * 8, true)?,
            ff_out: b.at("ff.net.2").linear(size * 4, size, true)?,
        })
    }

    /// hidden_states: `[batch, tokens, size]`, context: `[batch, text tokens, cross_attention_dim]`.
    pub fn forward(&self, hidden_states: &Tensor, context: &Tensor) -> Tensor {
        let hidden = self.attn1.forward(&self.norm1.forward(hidden_states), None) + hidden_states;
        let hidden = self.attn2.forward(&self.norm2.forward(&hidden), Some(context)) + hidden;
        let values_and_gates = self.ff_in.forward(&self.norm3.forward(&hidden));
        self.ff_out.forward(&or_panic(geglu(&values_and_gates))) + hidden
    }
}

#[derive(Debug)]
enum Projection {
    Conv(Rc<Conv2d>),
    Linear(Rc<Linear>),
}

impl Projection {
    fn new(b: &Builder, channels: i64, linear: bool) -> Result<Projection> {
        Ok(match linear {
            true => Projection::Linear(b.linear(channels, channels, true)?),
            false => Projection::Conv(b.conv2d(channels, channels, 1, 1, 0)?),
        })
    }

    /// `[batch, channels, height, width]` → `[batch, height·width, channels]`.
    fn to_tokens(&self, map: &Tensor) -> Tensor {
        match self {
            Projection::Conv(conv) => flatten(&conv.forward(map)),
            Projection::Linear(linear) => linear.forward(&flatten(map)),
        }
    }

    /// `[batch, height·width, channels]` → `[batch, channels, height, width]`.
    fn to_map(&self, tokens: &Tensor, height: i64, width: i64) -> Tensor {
        match self {
            Projection::Conv(conv) => conv.forward(&unflatten(tokens, height, width)),
            Projection::Linear(linear) => unflatten(&linear.forward(tokens), height, width),
        }
    }
}

fn flatten(map: &Tensor) -> Tensor {
    let (batch, channels, height, width) = map.size4().expect("activations have four dimensions");
    map.permute([0, 2, 3, 1]).reshape([batch, height * width, channels])
}

fn unflatten(tokens: &Tensor, height: i64, width: i64) -> Tensor {
    let (batch, _, channels) = tokens.size3().expect("tokens have three dimensions");
    tokens.reshape([batch, height, width, channels]).permute([0, 3, 1, 2])
}

/// Norm, projection, blocks, projection, plus the input.
#[derive(Debug)]
pub struct Transformer2DModel {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Projection,
}

impl Transformer2DModel {
    /// The transformer at `b`.
    pub fn new(b: &Builder, config: &TransformerConfig) -> Result<Transformer2DModel> {
        let linear = config.use_linear_projection;
        Ok(Transformer2DModel {
            norm: b.at("norm").group_norm(config.groups, config.channels, 1e-6)?,
            proj_in: Projection::new(&b.at("proj_in"), config.channels, linear)?,
            transformer_blocks: (0..config.layers)
                .map(|i| BasicTransformerBlock::new(&b.at("transformer_blocks").at(i), config))
                .collect::<Result<_>>()?,
            proj_out: Projection::new(&b.at("proj_out"), config.channels, linear)?,
        })
    }

    /// input: `[batch, channels, height, width]`, context: `[batch, text tokens, cross_attention_dim]`.
    pub fn forward(&self, input: &Tensor, context: &Tensor) -> Tensor {
        let (_, _, height, width) = input.size4().expect("activations have four dimensions");
        let mut tokens = self.proj_in.to_tokens(&self.norm.forward(input));
        for block in &self.transformer_blocks {
            tokens = block.forward(&tokens, context);
        }
        self.proj_out.to_map(&tokens, height, width) + input
    }
}
