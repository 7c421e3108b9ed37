//! The timestep as a vector: sinusoids, then a two-layer network (diffusers: `Timesteps`, `TimestepEmbedding`).

use super::Linear;
use crate::builder::Builder;
use crate::error::Result;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// Sinusoids of `timesteps` (Vaswani et al. 2017, arXiv:1706.03762, base 10000) in f32.
///
/// # Shapes
/// timesteps: `[batch]` → `[batch, dim]`; `flip_sin_to_cos` puts the cosines first, as released checkpoints need.
pub fn sinusoidal_embedding(timesteps: &Tensor, dim: i64, flip_sin_to_cos: bool, freq_shift: f64) -> Tensor {
    let half = dim / 2;
    let options = (Kind::Float, timesteps.device());
    let exponent = Tensor::arange(half, options) * (-(10000f64.ln()) / (half as f64 - freq_shift));
    let angles = timesteps.to_kind(Kind::Float).unsqueeze(1) * exponent.exp().unsqueeze(0);
    let halves = if flip_sin_to_cos { [angles.cos(), angles.sin()] } else { [angles.sin(), angles.cos()] };
    let embedding = Tensor::cat(&halves, 1);
    if dim % 2 == 1 { embedding.constant_pad_nd([0, 1]) } else { embedding }
}

/// Linear, SiLU, linear.
#[derive(Debug)]
pub struct TimestepEmbedding {
    linear_1: Rc<Linear>,
    linear_2: Rc<Linear>,
}

impl TimestepEmbedding {
    /// The network at `b`.
    pub fn new(b: &Builder, inputs: i64, size: i64) -> Result<TimestepEmbedding> {
        Ok(TimestepEmbedding {
            linear_1: b.at("linear_1").linear(inputs, size, true)?,
            linear_2: b.at("linear_2").linear(size, size, true)?,
        })
    }

    /// sinusoids: `[batch, inputs]` → `[batch, size]`.
    pub fn forward(&self, sinusoids: &Tensor) -> Tensor {
        self.linear_2.forward(&self.linear_1.forward(sinusoids).silu())
    }
}
