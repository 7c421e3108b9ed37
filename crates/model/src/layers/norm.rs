//! Group and layer normalisation.

use super::as_kind;
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
        let kind = input.kind();
        let (weight, bias) = (as_kind(&self.weight, kind), as_kind(&self.bias, kind));
        // libtorch's backward for channels_last writes to the gradient of the input even where nobody asked for it: a crash where
        // this is the first trained layer behind frozen ones. A leaf that asks for it changes no number, nor the layout that a
        // block run again in backward must find again.
        let is_first_trained = self.weight.requires_grad() && !input.requires_grad();
        let input = if is_first_trained { input.detach().set_requires_grad(true) } else { input.shallow_clone() };
        input.group_norm(self.groups, Some(&weight), Some(&bias), self.eps, true)
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
