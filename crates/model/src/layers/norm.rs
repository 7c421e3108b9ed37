//! Group and layer normalisation.

use super::as_kind;
use sdtrain_torch::{Activation, group_norm, or_panic};
use tch::Tensor;

/// Normalises each group of channels of each example.
#[derive(Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    eps: f64,
}

impl GroupNorm {
    pub(crate) fn new(weight: Tensor, bias: Tensor, groups: i64, eps: f64) -> GroupNorm {
        GroupNorm { weight, bias, groups, eps }
    }

    /// input: `[batch, channels, …]`, same shape out.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        self.followed_by(Activation::None, input)
    }

    /// The same, and SiLU of it.
    pub fn forward_silu(&self, input: &Tensor) -> Tensor {
        self.followed_by(Activation::Silu, input)
    }

    fn followed_by(&self, activation: Activation, input: &Tensor) -> Tensor {
        let kind = input.kind();
        let (weight, bias) = (as_kind(&self.weight, kind), as_kind(&self.bias, kind));
        or_panic(group_norm(input, &weight, &bias, self.groups, self.eps, activation))
    }
}

/// Normalises the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn new(weight: Tensor, bias: Tensor, eps: f64) -> LayerNorm {
        LayerNorm { weight, bias, eps }
    }

    /// input: `[…, size]`, same shape out.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        let (weight, bias) = (as_kind(&self.weight, kind), as_kind(&self.bias, kind));
        input.layer_norm(self.weight.size(), Some(&weight), Some(&bias), self.eps, true)
    }
}
