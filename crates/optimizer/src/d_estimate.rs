//! What Prodigy and D-Adaptation share: the estimate of the distance to the solution, kept on the device.

use crate::update::{Commit, number};
use tch::{Device, Tensor};

/// Named numbers on the device, in double precision.
pub(crate) struct Numbers<const N: usize> {
    names: [&'static str; N],
    tensors: [Tensor; N],
}

impl<const N: usize> Numbers<N> {
    pub fn new(entries: [(&'static str, f64); N], device: Device) -> Numbers<N> {
        Numbers { names: entries.map(|(name, _)| name), tensors: entries.map(|(_, value)| number(value, device)) }
    }

    /// Their values now.
    pub fn values(&self) -> [&Tensor; N] {
        self.tensors.each_ref()
    }

    /// Their values after a step.
    pub fn write(&self, values: [&Tensor; N], commit: &Commit) {
        self.tensors.iter().zip(values).for_each(|(slot, value)| commit.write(slot, value));
    }

    /// Under the names that checkpoints have.
    pub fn named(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        self.names.iter().zip(&self.tensors).map(|(name, tensor)| (name.to_string(), tensor.shallow_clone()))
    }
}

/// Adam's correction of both running means for the step after `steps`, or 1.
pub(crate) fn bias_correction(wanted: bool, betas: [f64; 2], steps: &Tensor) -> Tensor {
    if !wanted {
        return steps.ones_like();
    }
    let [first, second]: [Tensor; 2] = betas.map(|beta| 1.0 - Tensor::pow_scalar(beta, &(steps + 1.0)));
    second.sqrt() / first
}

/// `value`, at most `growth` times what it was, where there is such a limit.
pub(crate) fn limited(value: Tensor, before: &Tensor, growth: Option<f64>) -> Tensor {
    growth.map_or_else(|| value.shallow_clone(), |growth| value.minimum(&(before * growth)))
}
