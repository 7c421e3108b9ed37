//! What of an adapter is left out in a training step: numbers of its input or between its matrices, ranks or rows, or all of it.

use sdtrain_random::{Purpose, Stream, key_of};
use sdtrain_recipe::{DropoutPlace, LoraConfig};
use std::cell::Cell;
use tch::Tensor;

/// The dropouts of one adapter. Masks depend on (seed, pass, layer) alone, so that a block that is run again in backward
/// sees the same ones.
#[derive(Debug)]
pub struct Dropout {
    neuron: f64,
    place: DropoutPlace,
    rank: f64,
    module: f64,
    seed: u64,
    /// The layer's path, which the streams are keyed by.
    layer: String,
    /// Which forward pass of the run this is; none outside training, where nothing is dropped.
    pass: Cell<Option<u64>>,
}

impl Dropout {
    /// What `config` asks for beside the layer of this full path; none when it asks for nothing.
    pub fn new(config: &LoraConfig, seed: u64, layer: String) -> Option<Dropout> {
        let (neuron, rank, module) = (config.dropout, config.rank_dropout, config.module_dropout);
        let any = [neuron, rank, module].iter().any(|&probability| probability > 0.0);
        any.then(|| Dropout { neuron, place: config.dropout_at, rank, module, seed, layer, pass: Cell::new(None) })
    }

    /// Tells which forward pass comes next, or that training pauses.
    pub fn set_pass(&self, pass: Option<u64>) {
        self.pass.set(pass);
    }

    fn stream(&self, what: &str) -> Option<Stream> {
        Some(Stream::new(self.seed, Purpose::Dropout, self.pass.get()?, key_of(&format!("{}{what}", self.layer))))
    }

    /// Whether the whole adapter is left out of this pass.
    pub fn leaves_out(&self) -> bool {
        self.module > 0.0 && self.stream(".module").is_some_and(|mut stream| stream.uniform() < self.module)
    }

    /// `input` with numbers dropped and the others scaled up; none outside training.
    pub fn of_input(&self, input: &Tensor) -> Option<Tensor> {
        self.of_numbers(DropoutPlace::Input, input)
    }

    /// Whether numbers or ranks between the matrices are dropped in any pass.
    pub fn may_drop_ranks(&self) -> bool {
        self.rank > 0.0 || (self.neuron > 0.0 && self.place == DropoutPlace::RankActivations)
    }

    /// What the first matrix made, with numbers dropped and the others scaled up; none outside training.
    pub fn of_rank_activations(&self, low: &Tensor) -> Option<Tensor> {
        self.of_numbers(DropoutPlace::RankActivations, low)
    }

    fn of_numbers(&self, place: DropoutPlace, numbers: &Tensor) -> Option<Tensor> {
        if self.neuron == 0.0 || self.place != place {
            return None;
        }
        Some(numbers * mask(&mut self.stream("")?, self.neuron, &numbers.size(), numbers))
    }

    /// A mask for ranks or rows, in which the kept ones are scaled up; none outside training.
    pub fn of_ranks(&self, shape: &[i64], like: &Tensor) -> Option<Tensor> {
        if self.rank == 0.0 {
            return None;
        }
        Some(mask(&mut self.stream(".rank")?, self.rank, shape, like))
    }
}

fn mask(stream: &mut Stream, probability: f64, shape: &[i64], like: &Tensor) -> Tensor {
    let kept = (1.0 / (1.0 - probability)) as f32;
    let count: i64 = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| if stream.uniform() < probability { 0.0 } else { kept }).collect();
    Tensor::from_slice(&values).reshape(shape).to_device(like.device()).to_kind(like.kind())
}
