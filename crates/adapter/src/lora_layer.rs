//! One low-rank adapter beside one layer: `output + alpha/rank · up(down(input))` (Hu et al. 2021, arXiv:2106.09685).

use sdtrain_model::LayerAdapter;
use sdtrain_random::{Purpose, Stream};
use std::cell::Cell;
use tch::{Kind, Tensor};

/// Drops elements of the input during training. The mask depends on (seed, step, layer) alone, so that a block that
/// is run again in backward sees the same one.
#[derive(Debug)]
pub struct Dropout {
    /// Share of elements dropped.
    pub probability: f64,
    /// The run's seed.
    pub seed: u64,
    /// Which layer.
    pub layer: u64,
    /// Which forward pass of the run this is; none outside training, where nothing is dropped.
    pub pass: Cell<Option<u64>>,
}

impl Dropout {
    /// `input` with elements dropped and the others scaled up; none outside training.
    fn apply(&self, input: &Tensor) -> Option<Tensor> {
        let mut stream = Stream::new(self.seed, Purpose::Dropout, self.pass.get()?, self.layer);
        let scale = 1.0 / (1.0 - self.probability);
        let mask: Vec<f32> =
            (0..input.numel()).map(|_| if stream.uniform() < self.probability { 0.0 } else { scale as f32 }).collect();
        let mask = Tensor::from_slice(&mask).reshape(input.size());
        Some(input * mask.to_device(input.device()).to_kind(input.kind()))
    }
}

/// Down to `rank` channels and up again.
#[derive(Debug)]
pub struct LoraLayer {
    /// `[rank, inputs]`, or `[rank, inputs, kernel, kernel]` for a convolution.
    pub down: Tensor,
    /// `[outputs, rank]`, or `[outputs, rank, 1, 1]`.
    pub up: Tensor,
    /// alpha / rank, times the strength it is used with.
    pub scale: Cell<f64>,
    /// Stride and padding of the convolution beside it.
    pub convolution: Option<(i64, i64)>,
    /// Only while training.
    pub dropout: Option<Dropout>,
}

impl LayerAdapter for LoraLayer {
    fn apply(&self, input: &Tensor, output: Tensor) -> Tensor {
        let scale = self.scale.get();
        if scale == 0.0 {
            return output;
        }
        let kind = input.kind();
        let dropped = self.dropout.as_ref().and_then(|dropout| dropout.apply(input));
        let input = dropped.as_ref().unwrap_or(input);
        let (down, up) = (cast(&self.down, kind), cast(&self.up, kind));
        match self.convolution {
            None => output + (input.linear(&down, None::<&Tensor>) * scale).linear(&up, None::<&Tensor>),
            Some((stride, padding)) => {
                let none = None::<&Tensor>;
                let low = input.conv2d(&down, none, [stride, stride], [padding, padding], [1, 1], 1) * scale;
                output + low.conv2d(&up, none, [1, 1], [0, 0], [1, 1], 1)
            }
        }
    }
}

impl LoraLayer {
    /// What it adds to the weight of its layer, in that weight's shape, f32.
    pub fn weight_delta(&self) -> Tensor {
        let (down, up) = (self.down.to_kind(Kind::Float), self.up.to_kind(Kind::Float));
        let shape: Vec<i64> = std::iter::once(up.size()[0]).chain(down.size()[1..].iter().copied()).collect();
        let product = up.flatten(1, -1).matmul(&down.flatten(1, -1));
        product.reshape(shape) * self.scale.get()
    }
}

fn cast(tensor: &Tensor, kind: Kind) -> Tensor {
    if tensor.kind() == kind { tensor.shallow_clone() } else { tensor.to_kind(kind) }
}
