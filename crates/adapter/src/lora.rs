//! A set of adapters over the layers of a model: making it, attaching it, its tensors, its exact weight change.

use crate::dropout::Dropout;
use crate::error::{Error, Result};
use crate::kinds::{NewLayer, new_layer};
use crate::layer::Attached;
use crate::site::Site;
use sdtrain_model::{Adaptable, Parameters, StableDiffusion};
use sdtrain_random::{Purpose, Stream, key_of};
use sdtrain_recipe::{AdapterKind, FileAdapter, LoraConfig};
use sdtrain_state_dict::maps::lora_kohya::KohyaNaming;
use sdtrain_state_dict::maps::lora_peft::{LoraKey, LoraTensor, Part, peft_name};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// The networks that adapters can be attached to.
pub struct Networks<'m> {
    parts: Vec<(Part, &'m Parameters)>,
}

impl<'m> Networks<'m> {
    /// UNet and text encoders of `model`.
    pub fn of(model: &'m StableDiffusion) -> Networks<'m> {
        let parts = Part::ALL.into_iter();
        let networks = model.networks();
        let found = |part: Part| networks.iter().find(|(name, _)| *name == part.folder()).map(|(_, own)| (part, *own));
        Networks { parts: parts.filter_map(found).collect() }
    }

    /// How kohya's scripts name the layers.
    fn kohya_naming(&self) -> KohyaNaming {
        KohyaNaming::of_layers(&self.layers().map(|(part, path, _)| (part, path)).collect::<Vec<_>>())
    }

    /// Part, path and layer of everything an adapter can be attached to.
    pub fn layers(&self) -> impl Iterator<Item = (Part, &'m str, &'m Adaptable)> {
        let parts = self.parts.iter().copied();
        parts.flat_map(|(part, parameters)| parameters.layers().map(move |(path, layer)| (part, path, layer)))
    }
}

/// The adapter of one layer, and where it belongs.
#[derive(Debug, Clone)]
pub struct LoraModule {
    /// The network.
    pub part: Part,
    /// The layer's path in it, diffusers' names.
    pub path: String,
    /// Its kind.
    pub kind: AdapterKind,
    /// The adapter itself.
    pub layer: Rc<Attached>,
}

impl LoraModule {
    /// Size of the bottleneck, in kinds that have one.
    pub fn rank(&self) -> Option<i64> {
        self.layer.adapter().rank()
    }

    /// The alpha whose alpha/rank is the scale, in kinds that have one.
    pub fn alpha(&self) -> Option<f64> {
        self.layer.adapter().alpha()
    }

    /// `unet.` or `text_encoder.` and the path.
    pub fn full_path(&self) -> String {
        format!("{}.{}", self.part, self.path)
    }

    /// What a configuration could say otherwise of it.
    pub fn described(&self) -> FileAdapter {
        let size = |value: &Tensor| value.size().into_iter().map(|side| side as usize).collect::<Vec<_>>();
        let parameters = self.layer.adapter().parameters().into_iter();
        let rank = parameters.filter_map(|(tensor, value)| tensor.rank(&size(value))).next();
        FileAdapter {
            part: self.part.to_string(),
            path: self.path.clone(),
            kernel: self.layer.site().shape().get(2).map_or(1, |&side| side as usize),
            kind: self.kind,
            rank: rank.map(|rank| rank as u32),
            alpha: self.alpha(),
        }
    }

    fn name(&self, tensor: LoraTensor) -> String {
        peft_name(&LoraKey { part: self.part, module: self.path.clone(), tensor })
    }
}

/// Adapters of the LoRA family, in the order of part and path.
#[derive(Debug)]
pub struct Lora {
    modules: Vec<LoraModule>,
    kohya_naming: KohyaNaming,
}

impl Lora {
    /// New adapters on the layers that `config` names, in f32 and a pure function of `seed` and the layer's path. They
    /// change nothing at first.
    pub fn new(config: &LoraConfig, seed: u64, networks: &Networks) -> Result<Lora> {
        let mut lora = Lora::from_modules(Vec::new(), networks);
        match lora.add_missing(config, seed, networks, |_| true)? {
            0 => Err(Error::NoTargets(config.effective_targets())),
            _ => Ok(lora),
        }
    }

    /// Adds new adapters on the layers that `config` names, that have none yet, and whose full path `wanted` takes; how many.
    /// Each is the one that [`Lora::new`] would make.
    pub fn add_missing(
        &mut self,
        config: &LoraConfig,
        seed: u64,
        networks: &Networks,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<usize> {
        let present: BTreeSet<String> = self.modules.iter().map(LoraModule::full_path).collect();
        for (part, path, layer) in networks.layers() {
            let kernel = layer.weight().size().get(2).map_or(1, |&side| side as usize);
            let Some((rank, alpha)) = config.adapter_beside(&part.to_string(), path, kernel) else { continue };
            let (site, full_path) = (Site::of(layer), format!("{part}.{path}"));
            if present.contains(&full_path) || !wanted(&full_path) {
                continue;
            }
            let stream = Stream::new(seed, Purpose::Init, 1, key_of(&full_path));
            let mut new = NewLayer { site: &site, path: &full_path, rank: i64::from(rank), alpha, config, stream };
            let adapter = sdtrain_torch::catch(|| new_layer(config.kind, &mut new))?;
            let layer = Rc::new(Attached::new(site, adapter));
            self.modules.push(LoraModule { part, path: path.to_string(), kind: config.kind, layer });
        }
        Ok(self.modules.len() - present.len())
    }

    pub(crate) fn from_modules(modules: Vec<LoraModule>, networks: &Networks) -> Lora {
        Lora { modules, kohya_naming: networks.kohya_naming() }
    }

    /// How kohya's scripts name its layers.
    pub(crate) fn kohya_naming(&self) -> &KohyaNaming {
        &self.kohya_naming
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
        let layers = by_path(networks);
        for module in &self.modules {
            layers[&(module.part, module.path.as_str())].attach(module.layer.clone());
        }
    }

    /// Lets every adapter's change count `strength` times; 0 switches them off.
    pub fn set_strength(&self, strength: f64) {
        for module in &self.modules {
            module.layer.set_strength(strength);
        }
    }

    /// Lets the adapters drop what `config` says in the forward passes that [`Lora::set_pass`] announces. To be called
    /// once.
    pub fn set_dropout(&self, config: &LoraConfig, seed: u64) {
        for module in &self.modules {
            if let Some(dropout) = Dropout::new(config, seed, module.full_path()) {
                module.layer.set_dropout(dropout);
            }
        }
    }

    /// Tells the dropouts which forward pass of the run comes next, or that training pauses.
    pub fn set_pass(&self, pass: Option<u64>) {
        for dropout in self.modules.iter().filter_map(|module| module.layer.dropout()) {
            dropout.set_pass(pass);
        }
    }

    /// PEFT name and tensor of everything that is trained in `part`.
    pub fn parameters(&self, part: Part) -> Vec<(String, Tensor)> {
        let of_part = self.modules.iter().filter(|module| module.part == part);
        let parameters = |module: &LoraModule| -> Vec<(String, Tensor)> {
            let parameters = module.layer.adapter().parameters().into_iter();
            parameters.map(|(tensor, value)| (module.name(tensor), value.shallow_clone())).collect()
        };
        of_part.flat_map(parameters).collect()
    }

    /// Shrinks each adapter's weight change to the Frobenius norm `largest` where it is longer; nothing is read back.
    pub fn cap_norms(&self, largest: f64) -> Result<()> {
        Ok(sdtrain_torch::catch(|| self.modules.iter().for_each(|module| module.layer.cap_norm(largest)))?)
    }

    /// Adds the adapters' exact weight change, at their present strength, to the layers' weights and biases: computed in
    /// f32, rounded to the weights' dtype once. A kind whose change depends on the weight takes it as it is now.
    pub fn merge(&self, networks: &Networks) -> Result<()> {
        let layers = by_path(networks);
        for module in &self.modules {
            let layer = layers[&(module.part, module.path.as_str())];
            sdtrain_torch::catch(|| {
                let (weight, bias) = module.layer.merged();
                put(layer.weight(), &weight);
                if let (Some(place), Some(bias)) = (layer.bias(), bias) {
                    put(place, &bias);
                }
            })?;
        }
        Ok(())
    }
}

fn by_path<'m>(networks: &Networks<'m>) -> BTreeMap<(Part, &'m str), &'m Adaptable> {
    networks.layers().map(|(part, path, layer)| ((part, path), layer)).collect()
}

fn put(place: &Tensor, value: &Tensor) {
    tch::no_grad(|| place.shallow_clone().copy_(&value.to_kind(place.kind())));
}
