//! A network's parameters and adaptable layers by diffusers name.

use crate::error::Result;
use crate::layers::{AdapterSlot, Conv2d, Linear};
use std::collections::BTreeMap;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// A layer that an adapter can be attached to.
#[derive(Clone, Debug)]
pub enum Adaptable {
    /// A linear layer.
    Linear(Rc<Linear>),
    /// A convolution.
    Conv2d(Rc<Conv2d>),
}

impl Adaptable {
    /// The layer's weight: `[out, in]` or `[out, in, kernel, kernel]`.
    pub fn weight(&self) -> &Tensor {
        match self {
            Adaptable::Linear(layer) => layer.weight(),
            Adaptable::Conv2d(layer) => layer.weight(),
        }
    }

    /// The layer's bias, if it has one: `[out]`.
    pub fn bias(&self) -> Option<&Tensor> {
        match self {
            Adaptable::Linear(layer) => layer.bias(),
            Adaptable::Conv2d(layer) => Some(layer.bias()),
        }
    }

    /// Adds `adapter` to the layer.
    pub fn attach(&self, adapter: Rc<dyn LayerAdapter>) {
        self.slot().attach(adapter);
    }

    /// Takes all adapters off the layer.
    pub fn detach_all(&self) {
        self.slot().clear();
    }

    /// Lets the layer's adapters work again, or not.
    pub fn switch_adapters(&self, on: bool) {
        self.slot().switch(on);
    }

    fn slot(&self) -> &AdapterSlot {
        match self {
            Adaptable::Linear(layer) => &layer.slot,
            Adaptable::Conv2d(layer) => &layer.slot,
        }
    }
}

/// Something that changes a layer's output.
pub trait LayerAdapter: std::fmt::Debug {
    /// What is added to the layer's output, for its `input` and its own `output`, both in the compute dtype; none when
    /// it is switched off. It depends on the layer alone, so several adapters of a layer do not see each other.
    fn added(&self, input: &Tensor, output: &Tensor) -> Option<Tensor>;
}

/// Numbers of a tensor that [`sampled`] takes at least, where it has so many.
const SAMPLED: i64 = 64;

/// 64 to 127 numbers at equal distances, or all of fewer, the first and one near the last among them, in fp32: enough to know a tensor
/// again, since whatever training or merging does to one changes nearly all of its numbers. May share the tensor's memory.
///
/// # Errors
/// If libtorch fails.
pub fn sampled(tensor: &Tensor) -> Result<Tensor> {
    let flat = tensor.f_detach()?.f_reshape([-1])?;
    let count = flat.numel() as i64;
    let stride = (count / SAMPLED).max(1);
    Ok(flat.f_slice(0, 0, count, stride)?.f_to_kind(Kind::Float)?)
}

/// All parameters of one network, in the order of their names.
#[derive(Debug, Default)]
pub struct Parameters {
    tensors: BTreeMap<String, Tensor>,
    layers: BTreeMap<String, Adaptable>,
}

impl Parameters {
    pub(crate) fn add(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_string(), tensor);
    }

    pub(crate) fn add_layer(&mut self, path: &str, layer: Adaptable) {
        self.layers.insert(path.to_string(), layer);
    }

    /// Name and tensor of every parameter. The tensors alias those inside the network.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The parameter `name`, e.g. `conv_in.weight`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Path and layer of every linear layer and convolution, e.g. `mid_block.attentions.0.proj_in`.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &Adaptable)> {
        self.layers.iter().map(|(path, layer)| (path.as_str(), layer))
    }

    /// How many numbers the network has.
    pub fn count(&self) -> usize {
        self.tensors.values().map(|t| t.numel()).sum()
    }

    /// Moves every parameter to `device` and rounds it to `kind`, inside the network as well.
    pub(crate) fn convert(&self, device: Device, kind: Kind) -> Result<()> {
        Ok(sdtrain_torch::catch(|| {
            tch::no_grad(|| {
                for tensor in self.tensors.values() {
                    // Those inside the network share this tensor's data, whatever it is.
                    tensor.shallow_clone().set_data(&tensor.to_device(device).to_kind(kind));
                }
            })
        })?)
    }

    /// Makes every parameter trained, or frozen.
    pub fn set_requires_grad(&self, trained: bool) {
        for tensor in self.tensors.values() {
            let _ = tensor.set_requires_grad(trained);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_from_all_over_a_tensor_are_sampled() {
        for (count, expected) in [(1, 1), (63, 63), (64, 64), (100, 100), (128, 64), (1000, 67)] {
            let numbers = Tensor::arange(count, (Kind::Float, Device::Cpu));
            let found = sampled(&numbers).expect("a slice");
            assert_eq!(found.size(), [expected], "{count}");
            assert!(found.max().double_value(&[]) >= count as f64 * 0.98 - 1.0, "{count}: up to its end");
        }
    }
}
