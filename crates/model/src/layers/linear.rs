//! Fully connected layer with an adapter slot.

use super::{AdapterSlot, as_kind};
use sdtrain_torch::{linear, or_panic};
use tch::Tensor;

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// An adapter's delta is added to the output.
    pub slot: AdapterSlot,
}

impl Linear {
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Linear {
        Linear { weight, bias, slot: AdapterSlot::default() }
    }

    /// `[outputs, inputs]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[outputs]`, in layers that have one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// input: `[…, inputs]` → `[…, outputs]`.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        let bias = self.bias.as_ref().map(|b| as_kind(b, kind));
        let output = or_panic(linear(input, &as_kind(&self.weight, kind), bias.as_ref()));
        self.slot.apply(input, output)
    }
}
