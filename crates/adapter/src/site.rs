//! The layer that an adapter stands beside, as far as an adapter needs to know it.

use sdtrain_model::Adaptable;
use tch::{Device, Kind, Tensor};

/// A linear layer or a convolution. Its tensors alias the network's.
#[derive(Debug)]
pub struct Site {
    weight: Tensor,
    bias: Option<Tensor>,
    /// Stride and padding; none for a linear layer.
    convolution: Option<(i64, i64)>,
}

impl Site {
    /// Beside `layer`.
    pub fn of(layer: &Adaptable) -> Site {
        let convolution = match layer {
            Adaptable::Linear(_) => None,
            Adaptable::Conv2d(conv) => Some((conv.stride, conv.padding)),
        };
        let bias = layer.bias().map(Tensor::shallow_clone);
        Site { weight: layer.weight().shallow_clone(), bias, convolution }
    }

    /// `[outputs, inputs]` or `[outputs, inputs, kernel, kernel]`, in the network's dtype.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[outputs]`, in layers that have one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Size of the weight.
    pub fn shape(&self) -> Vec<i64> {
        self.weight.size()
    }

    /// Number of channels that come out.
    pub fn outputs(&self) -> i64 {
        self.weight.size()[0]
    }

    /// Numbers of the input that one output depends on: inputs × kernel × kernel.
    pub fn fan_in(&self) -> i64 {
        self.weight.size()[1..].iter().product()
    }

    /// Whether it is a convolution, of whatever kernel.
    pub fn is_convolution(&self) -> bool {
        self.convolution.is_some()
    }

    /// Stride and padding of a convolution.
    pub fn convolution(&self) -> Option<(i64, i64)> {
        self.convolution
    }

    /// Where the layer's tensors lie.
    pub fn device(&self) -> Device {
        self.weight.device()
    }

    /// What the layer would give with another `weight` of the same size and no bias.
    pub fn apply(&self, input: &Tensor, weight: &Tensor) -> Tensor {
        let (weight, none) = (as_kind(weight, input.kind()), None::<&Tensor>);
        match self.convolution {
            None => input.linear(&weight, none),
            Some((stride, padding)) => input.conv2d(&weight, none, [stride, stride], [padding, padding], [1, 1], 1),
        }
    }

    /// `output` of the layer as it would be without the bias.
    pub fn without_bias(&self, output: &Tensor) -> Tensor {
        match &self.bias {
            None => output.shallow_clone(),
            Some(bias) => output - as_kind(&self.along_channels(bias), output.kind()),
        }
    }

    /// A number for each channel, in the shape that multiplies activations of the layer: `[n]` or `[n, 1, 1]`.
    pub fn along_channels(&self, values: &Tensor) -> Tensor {
        match self.convolution {
            None => values.flatten(0, -1),
            Some(_) => values.flatten(0, -1).reshape([-1, 1, 1]),
        }
    }

    /// A number for each output, in the shape that multiplies the rows of the weight: `[n, 1]` or `[n, 1, 1, 1]`.
    pub fn along_rows(&self, values: &Tensor) -> Tensor {
        let ones = self.weight.dim() - 1;
        let shape: Vec<i64> = std::iter::once(-1).chain(std::iter::repeat_n(1, ones)).collect();
        values.flatten(0, -1).reshape(shape)
    }

    /// A number for each input, in the shape that multiplies the columns of the weight: `[1, n]` or `[1, n, 1, 1]`.
    pub fn along_columns(&self, values: &Tensor) -> Tensor {
        let ones = self.weight.dim() - 2;
        let shape: Vec<i64> = [1, -1].into_iter().chain(std::iter::repeat_n(1, ones)).collect();
        values.flatten(0, -1).reshape(shape)
    }
}

/// `tensor` in `kind`, itself where it has that already.
pub fn as_kind(tensor: &Tensor, kind: Kind) -> Tensor {
    if tensor.kind() == kind { tensor.shallow_clone() } else { tensor.to_kind(kind) }
}
