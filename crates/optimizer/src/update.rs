//! What update rules in tensor operations share: state by parameter, and steps that a flag on the device switches off.

use crate::ParamGroup;
use sdtrain_torch::Result;
use std::ops::Index;
use tch::{Device, Kind, Tensor};

/// One piece of state for every parameter, in the order of the groups.
pub(crate) struct Slot {
    name: &'static str,
    tensors: Vec<Tensor>,
}

impl Slot {
    /// `make` gives each parameter's.
    pub fn new(name: &'static str, groups: &[ParamGroup], make: impl Fn(&Tensor) -> Tensor) -> Slot {
        let parameters = groups.iter().flat_map(|group| &group.parameters);
        Slot { name, tensors: parameters.map(|(_, parameter)| make(&parameter.detach())).collect() }
    }

    /// Zeros in the shape of each parameter.
    pub fn zeros(name: &'static str, groups: &[ParamGroup]) -> Slot {
        Slot::new(name, groups, Tensor::zeros_like)
    }

    /// Steps done, for each parameter.
    pub fn steps(groups: &[ParamGroup]) -> Slot {
        Slot::new("step", groups, |parameter| number(0.0, parameter.device()))
    }

    /// Under the names that checkpoints have: `exp_avg.unet.conv_in.weight`.
    pub fn named<'s>(&'s self, groups: &'s [ParamGroup]) -> impl Iterator<Item = (String, Tensor)> + 's {
        let names = groups.iter().flat_map(|group| &group.parameters).map(|(name, _)| name);
        names.zip(&self.tensors).map(|(name, tensor)| (format!("{}.{name}", self.name), tensor.shallow_clone()))
    }
}

impl Index<usize> for Slot {
    type Output = Tensor;

    fn index(&self, parameter: usize) -> &Tensor {
        &self.tensors[parameter]
    }
}

/// One parameter that a step changes.
pub(crate) struct Update {
    /// Its group.
    pub group: usize,
    /// Its number over all groups, which is that in a [`Slot`].
    pub index: usize,
    /// The parameter.
    pub parameter: Tensor,
    /// Its gradient, which is left as it is.
    pub gradient: Tensor,
}

/// The parameters that have a gradient and are still trained: one that is not any more has kept the gradient of zeros that the steps
/// before left, and even at rate 0 some rules would move it or what they keep of it.
pub(crate) fn updates(groups: &[ParamGroup]) -> Vec<Update> {
    let all = groups.iter().enumerate().flat_map(|(group, list)| list.parameters.iter().map(move |(_, p)| (group, p)));
    all.enumerate()
        .map(|(index, (group, parameter))| Update {
            group,
            index,
            parameter: parameter.shallow_clone(),
            gradient: parameter.grad(),
        })
        .filter(|update| update.parameter.requires_grad() && update.gradient.defined())
        .collect()
}

/// Where the parameters lie.
pub(crate) fn device_of(groups: &[ParamGroup]) -> Device {
    groups.iter().flat_map(|group| &group.parameters).next().map_or(Device::Cpu, |(_, parameter)| parameter.device())
}

/// A number that stays on the device, in double precision as Python has it.
pub(crate) fn number(value: f64, device: Device) -> Tensor {
    Tensor::full([1], value, (Kind::Double, device)).squeeze()
}

/// A number as it meets a tensor: in single precision, which is also what torch makes of a Python number there.
pub(crate) fn single(number: &Tensor) -> Tensor {
    number.to_kind(Kind::Float)
}

/// Says on the device whether a step is kept.
pub(crate) struct Commit {
    kept: Tensor,
}

impl Commit {
    /// A step that is kept unless the one-element tensor `found_inf` is 1.
    pub fn new(found_inf: Option<&Tensor>, device: Device) -> Commit {
        let kept = match found_inf {
            Some(found_inf) => found_inf.reshape([] as [i64; 0]).to_device(device).eq(0.0),
            None => Tensor::ones([1], (Kind::Bool, device)).squeeze(),
        };
        Commit { kept }
    }

    /// One that is kept only where the one-element tensor `condition` is true as well.
    pub fn only_if(&self, condition: &Tensor) -> Commit {
        Commit { kept: self.kept.logical_and(condition) }
    }

    /// Puts `value` into `slot`, in place.
    pub fn write(&self, slot: &Tensor, value: &Tensor) {
        let _ = value.where_self_out(slot, &self.kept, slot);
    }
}

/// Runs the operations of a step: no gradient is recorded, and a panic of one of them is an error.
pub(crate) fn run(body: impl FnOnce()) -> Result<()> {
    sdtrain_torch::catch(|| tch::no_grad(body))
}
