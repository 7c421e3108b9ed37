//! Lookup table.

use tch::Tensor;

/// Row `i` for the integer `i`.
#[derive(Debug)]
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    pub(crate) fn new(weight: Tensor) -> Embedding {
        Embedding { weight }
    }

    /// `[rows, size]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// ids: `[…]` integers → `[…, size]`.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.weight, ids, -1, false, false)
    }
}
