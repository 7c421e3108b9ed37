//! Multi-head attention (diffusers: `Attention`), self and cross.

use super::{GroupNorm, Linear};
use crate::builder::Builder;
use crate::error::Result;
use sdtrain_torch::{attention, or_panic};
use std::rc::Rc;
use tch::Tensor;

/// Sizes and variants of one attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionConfig {
    /// Size of the queries' input, and of the output.
    pub query_dim: i64,
    /// Size of the context; absent for self-attention.
    pub cross_attention_dim: Option<i64>,
    /// Number of heads.
    pub heads: i64,
    /// Size of one head.
    pub dim_head: i64,
    /// Whether queries, keys and values have a bias (the VAE's do).
    pub bias: bool,
}

/// Softmax(QKᵀ/√d) V, then a linear layer.
#[derive(Debug)]
pub struct Attention {
    to_q: Rc<Linear>,
    to_k: Rc<Linear>,
    to_v: Rc<Linear>,
    to_out: Rc<Linear>,
    heads: i64,
}

impl Attention {
    /// The attention at `b`.
    pub fn new(b: &Builder, config: AttentionConfig) -> Result<Attention> {
        let inner = config.heads * config.dim_head;
        let context = config.cross_attention_dim.unwrap_or(config.query_dim);
        Ok(Attention {
            to_q: b.at("to_q").linear(config.query_dim, inner, config.bias)?,
            to_k: b.at("to_k").linear(context, inner, config.bias)?,
            to_v: b.at("to_v").linear(context, inner, config.bias)?,
            to_out: b.at("to_out").at(0).linear(inner, config.query_dim, true)?,
            heads: config.heads,
        })
    }

    /// hidden_states: `[batch, tokens, query_dim]`, context: `[batch, context tokens, cross_attention_dim]`.
    pub fn forward(&self, hidden_states: &Tensor, context: Option<&Tensor>) -> Tensor {
        let context = context.unwrap_or(hidden_states);
        let query = split_heads(&self.to_q.forward(hidden_states), self.heads);
        let key = split_heads(&self.to_k.forward(context), self.heads);
        let value = split_heads(&self.to_v.forward(context), self.heads);
        let attended = or_panic(attention(&query, &key, &value));
        self.to_out.forward(&merge_heads(&attended))
    }
}

/// `[batch, tokens, heads·d]` → `[batch, heads, tokens, d]`.
pub(crate) fn split_heads(states: &Tensor, heads: i64) -> Tensor {
    let (batch, tokens, size) = states.size3().expect("attention states have three dimensions");
    states.view([batch, tokens, heads, size / heads]).transpose(1, 2)
}

/// `[batch, heads, tokens, d]` → `[batch, tokens, heads·d]`.
pub(crate) fn merge_heads(states: &Tensor) -> Tensor {
    let (batch, heads, tokens, size) = states.size4().expect("heads are the second of four dimensions");
    states.transpose(1, 2).reshape([batch, tokens, heads * size])
}

/// libtorch's fused attention, which adds up in f32 whatever the dtype.
pub(crate) fn scaled_dot_product_attention(query: &Tensor, key: &Tensor, value: &Tensor, causal: bool) -> Tensor {
    Tensor::scaled_dot_product_attention(query, key, value, None::<&Tensor>, 0.0, causal, None, false)
}

/// The VAE's attention over all pixels, with its own norm and residual.
#[derive(Debug)]
pub struct SpatialAttention {
    group_norm: GroupNorm,
    attention: Attention,
}

impl SpatialAttention {
    /// One head over all channels, as `UNetMidBlock2D` of the VAE has it.
    pub fn new(b: &Builder, channels: i64, groups: i64) -> Result<SpatialAttention> {
        let config = AttentionConfig {
            query_dim: channels,
            cross_attention_dim: None,
            heads: 1,
            dim_head: channels,
            bias: true,
        };
        Ok(SpatialAttention {
            group_norm: b.at("group_norm").group_norm(groups, channels, 1e-6)?,
            attention: Attention::new(b, config)?,
        })
    }

    /// `[batch, channels, height, width]`, same shape out.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        let (batch, channels, height, width) = input.size4().expect("activations have four dimensions");
        let tokens = self.group_norm.forward(input).permute([0, 2, 3, 1]).reshape([batch, height * width, channels]);
        let attended = self.attention.forward(&tokens, None);
        attended.reshape([batch, height, width, channels]).permute([0, 3, 1, 2]) + input
    }
}
