//! A weight change that is built from small factors in every pass, without keeping what lies between them.

use tch::{Kind, Tensor};

/// `build(factors)`; of what it computes on the way nothing is kept for backward, which builds it once more. A weight
/// change has the size of the weight, and its parts beside every layer would take several times the model's memory.
pub(crate) fn rebuilt(factors: &[&Tensor], build: impl Fn(&[Tensor]) -> Tensor + 'static) -> Tensor {
    let factors: Vec<Tensor> = factors.iter().map(|factor| factor.to_kind(Kind::Float)).collect();
    let factors: Vec<&Tensor> = factors.iter().collect();
    // Inside a pass, where panics become errors.
    sdtrain_torch::gradient_checkpoint(&factors, build).unwrap_or_else(|error| panic!("{error}"))
}
