//! The kinds of adapters: one line each, and what all of them are made from.

use crate::dora::DoraLayer;
use crate::error::Result;
use crate::full_diff::FullDiffLayer;
use crate::ia3::Ia3Layer;
use crate::layer::{AdapterLayer, Form};
use crate::loha::LohaLayer;
use crate::lokr::LokrLayer;
use crate::lora_layer::LoraLayer;
use crate::site::Site;
use sdtrain_random::Stream;
use sdtrain_recipe::{AdapterKind, LoraConfig};
use sdtrain_state_dict::maps::lora_tensor::{LoraTensor, alpha_that_counts};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// One kind: how new ones are made, and how those of files are.
struct Entry {
    kind: AdapterKind,
    create: fn(&mut NewLayer) -> Box<dyn AdapterLayer>,
    read: Reading,
}

/// Takes the tensors of its kind; none when there are none, a reason when they do not fit.
type Reading = fn(&Site, &mut LayerTensors) -> Option<std::result::Result<Box<dyn AdapterLayer>, String>>;

/// In the order in which files are asked: what stands over another kind goes first.
const KINDS: &[Entry] = &[
    Entry { kind: AdapterKind::Dora, create: DoraLayer::create, read: DoraLayer::read },
    Entry { kind: AdapterKind::Lora, create: LoraLayer::create, read: LoraLayer::read },
    Entry { kind: AdapterKind::Loha, create: LohaLayer::create, read: LohaLayer::read },
    Entry { kind: AdapterKind::Lokr, create: LokrLayer::create, read: LokrLayer::read },
    Entry { kind: AdapterKind::Ia3, create: Ia3Layer::create, read: Ia3Layer::read },
    Entry { kind: AdapterKind::Full, create: FullDiffLayer::create, read: FullDiffLayer::read },
];

/// A new adapter of `kind`.
pub(crate) fn new_layer(kind: AdapterKind, new: &mut NewLayer) -> Box<dyn AdapterLayer> {
    let entry = KINDS.iter().find(|entry| entry.kind == kind).expect("every kind has a line");
    (entry.create)(new)
}

/// The adapter that a file's tensors make up beside `site`, with its kind; a reason when they do not.
pub(crate) fn read_layer(
    site: &Site,
    mut tensors: LayerTensors,
) -> std::result::Result<(AdapterKind, Box<dyn AdapterLayer>), String> {
    for entry in KINDS {
        if let Some(read) = (entry.read)(site, &mut tensors) {
            let layer = read?;
            return match tensors.rest() {
                Some(tensor) => Err(format!("`{}` does not belong to the other tensors", tensor.dotted_suffix())),
                None => Ok((entry.kind, layer)),
            };
        }
    }
    Err("it has no tensors of a kind that is known".into())
}

/// What gives a DoRA its direction: the adapter of one of the kinds with a scale.
pub(crate) fn read_direction(
    site: &Site,
    tensors: &mut LayerTensors,
) -> std::result::Result<Box<dyn AdapterLayer>, String> {
    let found = [LoraLayer::read, LohaLayer::read, LokrLayer::read].iter().find_map(|read| read(site, tensors));
    found.unwrap_or_else(|| Err("it has magnitudes, but nothing that they belong to".into()))
}

/// What a new adapter is made from.
pub(crate) struct NewLayer<'n> {
    pub site: &'n Site,
    /// The full path of the layer: `unet.…`.
    pub path: &'n str,
    pub rank: i64,
    /// alpha/rank is the scale.
    pub alpha: f64,
    pub config: &'n LoraConfig,
    /// Of this layer alone, drawn from in the order in which tensors are made.
    pub stream: Stream,
}

impl NewLayer<'_> {
    /// Numbers between -`bound` and `bound`, in f32 beside the layer.
    pub fn uniform(&mut self, shape: &[i64], bound: f64) -> Tensor {
        let count: i64 = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| ((self.stream.uniform() * 2.0 - 1.0) * bound) as f32).collect();
        Tensor::from_slice(&values).reshape(shape).to_device(self.site.device())
    }

    /// Numbers from a normal distribution of this deviation, in f32 beside the layer.
    pub fn normal(&mut self, shape: &[i64], deviation: f32) -> Tensor {
        let mut values = vec![0.0; shape.iter().product::<i64>() as usize];
        self.stream.fill_normal(&mut values);
        values.iter_mut().for_each(|value| *value *= deviation);
        Tensor::from_slice(&values).reshape(shape).to_device(self.site.device())
    }

    /// Numbers that change nothing, in f32 beside the layer.
    pub fn zeros(&self, shape: &[i64]) -> Tensor {
        Tensor::zeros(shape, (Kind::Float, self.site.device()))
    }
}

/// The tensors that a file has for one layer, in f32 beside it.
#[derive(Debug)]
pub(crate) struct LayerTensors {
    tensors: BTreeMap<LoraTensor, Tensor>,
    form: Form,
    /// What the file's metadata says of the layer.
    described: Option<Described>,
}

/// What the metadata of files in PEFT's form says about one layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Described {
    pub rank: i64,
    pub alpha: f64,
    /// The scale is alpha/√rank.
    pub rank_stabilized: bool,
}

impl LayerTensors {
    /// None yet, of a file in this form.
    pub fn new(form: Form) -> LayerTensors {
        LayerTensors { tensors: BTreeMap::new(), form, described: None }
    }

    /// The form of the file.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The rank that the file's metadata gives.
    pub fn described_rank(&self) -> Option<i64> {
        self.described.map(|described| described.rank)
    }

    pub fn insert(&mut self, tensor: LoraTensor, value: Tensor) {
        self.tensors.insert(tensor, value);
    }

    pub fn describe(&mut self, described: Option<Described>) {
        self.described = described;
    }

    /// The same on another device.
    pub fn on_device(mut self, device: tch::Device) -> Result<LayerTensors> {
        for tensor in self.tensors.values_mut() {
            *tensor = tensor.f_to_device(device)?;
        }
        Ok(self)
    }

    /// Whether there is any of `wanted`.
    pub fn has(&self, wanted: &[LoraTensor]) -> bool {
        wanted.iter().any(|tensor| self.tensors.contains_key(tensor))
    }

    /// The tensor, which then belongs to somebody.
    pub fn take(&mut self, tensor: LoraTensor) -> Option<Tensor> {
        self.tensors.remove(&tensor)
    }

    /// Alpha as the file says it, where 0 stands for the rank, else as its metadata does, else the rank. That it is a number was
    /// seen when the file was read.
    pub fn alpha(&mut self, rank: i64) -> f64 {
        let stored = self.take(LoraTensor::Alpha).filter(|alpha| alpha.numel() == 1);
        let described = self.described.map(|described| match described.rank_stabilized {
            true => described.alpha * (rank as f64).sqrt(),
            false => described.alpha,
        });
        let stored = stored.map(|alpha| alpha.reshape([1]).double_value(&[0]));
        stored.and_then(|alpha| alpha_that_counts(alpha, rank as f64)).or(described).unwrap_or(rank as f64)
    }

    /// A tensor that nobody took.
    fn rest(&self) -> Option<LoraTensor> {
        self.tensors.keys().next().copied()
    }
}
