//! Hands parameters to a network under construction, by their diffusers names, from a file or drawn at random.

use crate::error::{Error, Result};
use crate::layers::{Conv2d, Embedding, GroupNorm, LayerNorm, Linear};
use crate::parameters::{Adaptable, Parameters};
use crate::read_tensor::read_weight;
use sdtrain_random::{Purpose, Stream};
use sdtrain_state_dict::Reader;
use std::cell::RefCell;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// Where the numbers come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A file or folder of tensors with diffusers names.
    File(&'a dyn Reader),
    /// Drawn from PyTorch's default initialisation, a pure function of (seed, parameter name).
    Random(u64),
    /// Shapes without memory: every parameter is one number seen `numel` times. For counting and listing.
    Shapes,
}

/// How PyTorch initialises a parameter that is not in a file.
#[derive(Clone, Copy)]
enum Init {
    /// U(-1/√fan_in, 1/√fan_in): `Linear` and `Conv2d`, weight and bias.
    Uniform {
        fan_in: i64,
    },
    Ones,
    Zeros,
    /// N(0, 0.02²): CLIP's embeddings.
    Normal002,
}

/// A place in the tree of names, and everything needed to make a layer there.
#[derive(Clone)]
pub struct Builder<'a> {
    source: Source<'a>,
    kind: Kind,
    device: Device,
    prefix: String,
    parameters: Rc<RefCell<Parameters>>,
    missing: Rc<RefCell<Vec<String>>>,
}

impl<'a> Builder<'a> {
    /// A builder at the root of a network's names; parameters get `kind` on `device`.
    pub fn new(source: Source<'a>, kind: Kind, device: Device) -> Builder<'a> {
        Builder { source, kind, device, prefix: String::new(), parameters: Rc::default(), missing: Rc::default() }
    }

    /// The builder of the child `name` (a field or an index).
    pub fn at(&self, name: impl std::fmt::Display) -> Builder<'a> {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Builder { prefix, ..self.clone() }
    }

    /// The parameters handed out so far; call it on the root when the network is complete. Names that the file lacks
    /// are one error, all of them together.
    pub fn finish(self) -> Result<Parameters> {
        match self.source {
            Source::File(reader) if !self.missing.borrow().is_empty() => {
                Err(Error::MissingTensors { path: reader.path().to_path_buf(), names: self.missing.take() })
            }
            _ => Ok(self.parameters.take()),
        }
    }

    /// `nn.Linear(inputs, outputs)`.
    pub fn linear(&self, inputs: i64, outputs: i64, bias: bool) -> Result<Rc<Linear>> {
        let init = Init::Uniform { fan_in: inputs };
        let weight = self.parameter("weight", &[outputs, inputs], init)?;
        let bias = bias.then(|| self.parameter("bias", &[outputs], init)).transpose()?;
        let layer = Rc::new(Linear::new(weight, bias));
        self.parameters.borrow_mut().add_layer(&self.prefix, Adaptable::Linear(layer.clone()));
        Ok(layer)
    }

    /// `nn.Conv2d(inputs, outputs, kernel, stride, padding)`.
    pub fn conv2d(&self, inputs: i64, outputs: i64, kernel: i64, stride: i64, padding: i64) -> Result<Rc<Conv2d>> {
        let init = Init::Uniform { fan_in: inputs * kernel * kernel };
        let weight = self.parameter("weight", &[outputs, inputs, kernel, kernel], init)?;
        let bias = self.parameter("bias", &[outputs], init)?;
        let layer = Rc::new(Conv2d::new(weight, bias, stride, padding));
        self.parameters.borrow_mut().add_layer(&self.prefix, Adaptable::Conv2d(layer.clone()));
        Ok(layer)
    }

    /// The weight of `nn.Conv2d(inputs, outputs, 1, bias=False)`, for who multiplies by it himself.
    pub(crate) fn pointwise_weight(&self, inputs: i64, outputs: i64) -> Result<Tensor> {
        self.parameter("weight", &[outputs, inputs, 1, 1], Init::Uniform { fan_in: inputs })
    }

    /// `nn.GroupNorm(groups, channels, eps)`.
    pub fn group_norm(&self, groups: i64, channels: i64, eps: f64) -> Result<GroupNorm> {
        if channels % groups != 0 {
            return Err(Error::Config(format!(
                "{}: {channels} channels do not divide into {groups} groups",
                self.prefix
            )));
        }
        let weight = self.parameter("weight", &[channels], Init::Ones)?;
        let bias = self.parameter("bias", &[channels], Init::Zeros)?;
        Ok(GroupNorm::new(weight, bias, groups, eps))
    }

    /// `nn.LayerNorm(size, eps)`.
    pub fn layer_norm(&self, size: i64, eps: f64) -> Result<LayerNorm> {
        let weight = self.parameter("weight", &[size], Init::Ones)?;
        let bias = self.parameter("bias", &[size], Init::Zeros)?;
        Ok(LayerNorm::new(weight, bias, eps))
    }

    /// `nn.Embedding(rows, size)`.
    pub fn embedding(&self, rows: i64, size: i64) -> Result<Embedding> {
        Ok(Embedding::new(self.parameter("weight", &[rows, size], Init::Normal002)?))
    }

    fn parameter(&self, field: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let name = format!("{}.{field}", self.prefix);
        let tensor = match self.source {
            Source::File(reader) => self.read(reader, &name, shape)?,
            Source::Random(seed) => self.draw(seed, &name, shape, init)?,
            Source::Shapes => Tensor::zeros([1], (self.kind, self.device)).expand(shape, false),
        };
        self.parameters.borrow_mut().add(&name, tensor.shallow_clone());
        Ok(tensor)
    }

    fn read(&self, reader: &dyn Reader, name: &str, shape: &[i64]) -> Result<Tensor> {
        let Some(info) = reader.info(name) else {
            self.missing.borrow_mut().push(name.to_string());
            return Ok(Tensor::zeros([1], (self.kind, self.device)).expand(shape, false));
        };
        let stored: Vec<i64> = info.shape.iter().map(|&d| d as i64).collect();
        if stored != shape {
            let (path, name) = (reader.path().to_path_buf(), name.to_string());
            return Err(Error::WrongShape { path, name, expected: shape.to_vec(), found: stored });
        }
        read_weight(reader, name, self.kind, self.device)
    }

    fn draw(&self, seed: u64, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let count = shape.iter().product::<i64>() as usize;
        let mut stream = Stream::new(seed, Purpose::Init, 0, sdtrain_random::key_of(name));
        let values: Vec<f32> = match init {
            Init::Uniform { fan_in } => {
                let bound = 1.0 / (fan_in as f64).sqrt();
                (0..count).map(|_| ((stream.uniform() * 2.0 - 1.0) * bound) as f32).collect()
            }
            Init::Ones => vec![1.0; count],
            Init::Zeros => vec![0.0; count],
            Init::Normal002 => (0..count).map(|_| stream.normal_f32() * 0.02).collect(),
        };
        Ok(Tensor::f_from_slice(&values)?.f_reshape(shape)?.f_to_kind(self.kind)?.f_to_device(self.device)?)
    }
}
