//! A set of low-rank adapters over the layers of a model: making it, attaching it, its tensors.

use crate::error::{Error, Result};
use crate::lora_layer::{Dropout, LoraLayer};
use sdtrain_model::{Adaptable, Parameters, StableDiffusion};
use sdtrain_random::{Purpose, Stream, key_of};
use sdtrain_recipe::LoraConfig;
use sdtrain_state_dict::maps::lora_peft::{LoraKey, LoraTensor, Part, peft_name};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// The networks that adapters can be attached to.
pub struct Networks<'m> {
    parts: [(Part, &'m Parameters); 2],
    device: Device,
}

impl<'m> Networks<'m> {
    /// UNet and text encoder of `model`.
    pub fn of(model: &'m StableDiffusion) -> Networks<'m> {
        let parts = [(Part::Unet, model.unet.parameters()), (Part::TextEncoder, model.text_encoder.parameters())];
        Networks { parts, device: model.device }
    }

    /// Part, path and layer of everything an adapter can be attached to.
    pub fn layers(&self) -> impl Iterator<Item = (Part, &'m str, &'m Adaptable)> {
        self.parts.into_iter().flat_map(|(part, parameters)| parameters.layers().map(move |(path, l)| (part, path, l)))
    }
}

/// The adapter of one layer.
#[derive(Debug, Clone)]
pub struct LoraModule {
    /// The network.
    pub part: Part,
    /// The layer's path in it, diffusers' names.
    pub path: String,
    /// Its alpha.
    pub alpha: f64,
    /// Its tensors.
    pub layer: Rc<LoraLayer>,
}

impl LoraModule {
    /// Size of the bottleneck.
    pub fn rank(&self) -> i64 {
        self.layer.down.size()[0]
    }

    /// `unet.` or `text_encoder.` and the path.
    pub fn full_path(&self) -> String {
        format!("{}.{}", self.part, self.path)
    }

    fn name(&self, tensor: LoraTensor) -> String {
        peft_name(&LoraKey { part: self.part, module: self.path.clone(), tensor })
    }
}

/// Low-rank adapters, in the order of part and path.
#[derive(Debug)]
pub struct Lora {
    modules: Vec<LoraModule>,
}

impl Lora {
    /// New adapters on the layers that `config` names, in f32: down from Kaiming's uniform distribution (a = √5, as
    /// kohya's scripts and PEFT have it), a pure function of `seed` and the layer's path; up zero.
    pub fn new(config: &LoraConfig, seed: u64, networks: &Networks) -> Result<Lora> {
        let mut modules = Vec::new();
        for (part, path, layer) in networks.layers() {
            let kernel = layer.weight().size().get(2).map_or(1, |&side| side as usize);
            let Some((rank, alpha)) = config.adapter_beside(&part.to_string(), path, kernel) else { continue };
            let rank = i64::from(rank);
            let weight = layer.weight().size();
            let (outputs, inputs) = (weight[0], &weight[1..]);
            let fan_in: i64 = inputs.iter().product();
            let bound = 1.0 / (fan_in as f64).sqrt();
            let full_path = format!("{part}.{path}");
            let mut stream = Stream::new(seed, Purpose::Init, 1, key_of(&full_path));
            let values: Vec<f32> =
                (0..rank * fan_in).map(|_| ((stream.uniform() * 2.0 - 1.0) * bound) as f32).collect();
            let down_shape: Vec<i64> = std::iter::once(rank).chain(inputs.iter().copied()).collect();
            let up_shape: Vec<i64> = [outputs, rank].into_iter().chain(inputs[1..].iter().map(|_| 1)).collect();
            let down = Tensor::f_from_slice(&values)?.f_reshape(&down_shape)?.f_to_device(networks.device)?;
            let up = Tensor::f_zeros(&up_shape, (Kind::Float, networks.device))?;
            modules.push(LoraModule { part, path: path.to_string(), alpha, layer: beside(layer, down, up, alpha) });
        }
        if modules.is_empty() {
            return Err(Error::NoTargets(config.targets.clone()));
        }
        Ok(Lora { modules })
    }

    pub(crate) fn from_modules(modules: Vec<LoraModule>) -> Lora {
        Lora { modules }
    }

    /// The adapters.
    pub fn modules(&self) -> &[LoraModule] {
        &self.modules
    }

    /// Drops the adapters that `keep` refuses. To be called before they are attached.
    pub fn retain(&mut self, keep: impl FnMut(&LoraModule) -> bool) {
        self.modules.retain(keep);
    }

    /// How far each adapter moves the weight beside it: the Frobenius norm of its change.
    pub fn weight_norms(&self) -> Result<Vec<f64>> {
        if self.modules.is_empty() {
            return Ok(Vec::new());
        }
        Ok(sdtrain_torch::catch(|| {
            tch::no_grad(|| {
                let norm = |module: &LoraModule| module.layer.weight_delta().norm();
                let norms: Vec<Tensor> = self.modules.iter().map(norm).collect();
                // One read for all of them.
                let norms = Tensor::stack(&norms, 0).to_kind(Kind::Double).to_device(Device::Cpu);
                (0..norms.numel() as i64).map(|index| norms.double_value(&[index])).collect()
            })
        })?)
    }

    /// Puts every adapter into its layer's slot.
    pub fn attach(&self, networks: &Networks) {
        let layers: BTreeMap<(Part, &str), &Adaptable> =
            networks.layers().map(|(part, path, layer)| ((part, path), layer)).collect();
        for module in &self.modules {
            layers[&(module.part, module.path.as_str())].attach(module.layer.clone());
        }
    }

    /// Uses the adapters at `strength` times their alpha / rank; 0 switches them off.
    pub fn set_strength(&self, strength: f64) {
        for module in &self.modules {
            module.layer.scale.set(strength * module.alpha / module.rank() as f64);
        }
    }

    /// The same adapters, which drop a share of their inputs in the forward passes that [`Lora::set_pass`] announces.
    /// To be called before they are attached.
    pub fn with_dropout(mut self, probability: f64, seed: u64) -> Lora {
        for module in &mut self.modules {
            let LoraLayer { down, up, scale, convolution, .. } = &*module.layer;
            let layer = key_of(&format!("{}.{}", module.part, module.path));
            module.layer = Rc::new(LoraLayer {
                down: down.shallow_clone(),
                up: up.shallow_clone(),
                scale: scale.clone(),
                convolution: *convolution,
                dropout: (probability > 0.0).then(|| Dropout { probability, seed, layer, pass: Cell::new(None) }),
            });
        }
        self
    }

    /// Tells the dropouts which forward pass of the run comes next, or that training pauses.
    pub fn set_pass(&self, pass: Option<u64>) {
        for dropout in self.modules.iter().filter_map(|m| m.layer.dropout.as_ref()) {
            dropout.pass.set(pass);
        }
    }

    /// PEFT name and tensor of everything that is trained in `part`.
    pub fn parameters(&self, part: Part) -> Vec<(String, Tensor)> {
        let of_part = self.modules.iter().filter(|module| module.part == part);
        of_part
            .flat_map(|module| {
                [(LoraTensor::Down, &module.layer.down), (LoraTensor::Up, &module.layer.up)]
                    .map(|(tensor, value)| (module.name(tensor), value.shallow_clone()))
            })
            .collect()
    }

    /// Adds the adapters' exact weight change to the layers' weights, in f32 before rounding to the weights' dtype.
    pub fn merge(&self, networks: &Networks) -> Result<()> {
        let layers: BTreeMap<(Part, &str), &Adaptable> =
            networks.layers().map(|(part, path, layer)| ((part, path), layer)).collect();
        for module in &self.modules {
            let weight = layers[&(module.part, module.path.as_str())].weight();
            sdtrain_torch::catch(|| {
                tch::no_grad(|| {
                    let merged = weight.to_kind(Kind::Float) + module.layer.weight_delta();
                    weight.shallow_clone().copy_(&merged.to_kind(weight.kind()));
                })
            })?;
        }
        Ok(())
    }
}

/// The adapter for `layer` from its two tensors.
pub(crate) fn beside(layer: &Adaptable, down: Tensor, up: Tensor, alpha: f64) -> Rc<LoraLayer> {
    let convolution = match layer {
        Adaptable::Linear(_) => None,
        Adaptable::Conv2d(conv) => Some((conv.stride, conv.padding)),
    };
    let scale = Cell::new(alpha / down.size()[0] as f64);
    Rc::new(LoraLayer { down, up, scale, convolution, dropout: None })
}
