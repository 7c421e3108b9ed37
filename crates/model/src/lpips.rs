//! LPIPS: how different two pictures look, by the features of a VGG16 (Zhang et al. 2018, arXiv:1801.03924).

use crate::builder::{Builder, Source};
use crate::error::{Error, Result};
use crate::layers::Conv2d;
use sdtrain_state_dict::{Reader, SafetensorsFile};
use std::path::Path;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// The convolutions of torchvision's `vgg16` up to each of the five layers that are compared: their places in its `features` and
/// how many channels they make. Before each group but the first the picture is halved.
const SLICES: [&[(usize, i64)]; 5] = [
    &[(0, 64), (2, 64)],
    &[(5, 128), (7, 128)],
    &[(10, 256), (12, 256), (14, 256)],
    &[(17, 512), (19, 512), (21, 512)],
    &[(24, 512), (26, 512), (28, 512)],
];

/// From pixels between -1 and 1 to what the VGG16 was trained on: ImageNet's mean and deviation of pixels between 0 and 1.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// The distance, version 0.1 with the VGG16, in f32 and without dropout.
#[derive(Debug)]
pub struct Lpips {
    slices: Vec<Vec<Rc<Conv2d>>>,
    /// For each compared layer how much each of its channels counts: `[1, channels, 1, 1]`.
    weights: Vec<Tensor>,
    shift: Tensor,
    scale: Tensor,
}

impl Lpips {
    /// From the state dict of `lpips.LPIPS(net="vgg")` in a safetensors file.
    ///
    /// # Errors
    /// Where the file cannot be read, or is of something else.
    pub fn open(path: &Path, device: Device) -> Result<Lpips> {
        let file = SafetensorsFile::open(path)?;
        Lpips::new(&file, device).map_err(|error| match error {
            Error::MissingTensors { .. } | Error::WrongShape { .. } => Error::Config(format!(
                "`{}` is not the state dict of `lpips.LPIPS(net=\"vgg\")`: {error}",
                file.path().display()
            )),
            other => other,
        })
    }

    fn new(file: &dyn Reader, device: Device) -> Result<Lpips> {
        let root = Builder::new(Source::File(file), Kind::Float, device);
        let (mut slices, mut weights, mut inputs) = (Vec::new(), Vec::new(), 3);
        for (index, slice) in SLICES.iter().enumerate() {
            let mut convolutions = Vec::new();
            for &(place, outputs) in *slice {
                let at = root.at(format!("net.slice{}.{place}", index + 1));
                convolutions.push(at.conv2d(inputs, outputs, 3, 1, 1)?);
                inputs = outputs;
            }
            slices.push(convolutions);
            weights.push(root.at(format!("lin{index}.model.1")).pointwise_weight(inputs, 1)?);
        }
        let of_channels = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]).to_device(device);
        root.finish()?.set_requires_grad(false);
        Ok(Lpips { slices, weights, shift: of_channels(SHIFT), scale: of_channels(SCALE) })
    }

    /// Of each pair of pictures, `[batch, 3, height, width]` with values from -1 to 1 and sides of at least 16: `[batch]`, f32. The
    /// gradient goes to `picture` alone.
    pub fn distance(&self, picture: &Tensor, reference: &Tensor) -> Tensor {
        let reference = tch::no_grad(|| self.features(reference));
        let distances = self.features(picture).into_iter().zip(reference).zip(&self.weights);
        let each = distances.map(|((picture, reference), weight)| {
            let squares = (unit_length(&picture) - unit_length(&reference)).square() * weight;
            squares.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean_dim(
                [1i64, 2].as_slice(),
                false,
                Kind::Float,
            )
        });
        each.reduce(|sum, distance| sum + distance).expect("there are five layers")
    }

    /// What each compared layer makes of the pictures.
    fn features(&self, pictures: &Tensor) -> Vec<Tensor> {
        let mut hidden = (pictures.to_kind(Kind::Float) - &self.shift) / &self.scale;
        let mut features = Vec::new();
        for (index, convolutions) in self.slices.iter().enumerate() {
            if index > 0 {
                hidden = hidden.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false);
            }
            for convolution in convolutions {
                hidden = convolution.forward(&hidden).relu();
            }
            features.push(hidden.shallow_clone());
        }
        features
    }
}

/// The channels of each pixel as a vector of length one. Where all are zero they stay so, and so does their gradient, which the
/// root's would not.
fn unit_length(features: &Tensor) -> Tensor {
    const EPSILON: f64 = 1e-10;
    let squares = features.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    features / (squares.clamp_min(EPSILON * EPSILON).sqrt() + EPSILON)
}
