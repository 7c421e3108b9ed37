//! Logit-normal timesteps: σ(mean + std · z) with a normal z (Esser et al. 2024, arXiv:2403.03206, §3.1).

use sdtrain_recipe::LogitNormalTimesteps;
use tch::{Device, Kind, Tensor};

/// The probability that σ(z) falls into each of `count` equal parts of 0 to 1.
pub(super) fn weights(config: &LogitNormalTimesteps, count: usize) -> Vec<f64> {
    let edges = Tensor::arange(count as i64 + 1, (Kind::Double, Device::Cpu)) / count.max(1) as f64;
    // logit(0) = −∞ and logit(1) = ∞ have the right probabilities, 0 and 1.
    let below = ((edges.special_logit(None) - config.mean) / config.std).special_ndtr();
    Vec::try_from(below.diff(1, 0, None::<&Tensor>, None::<&Tensor>)).expect("a vector of fp64 on the CPU")
}
