//! LoKr: `ΔW = scale · W1 ⊗ W2`, a Kronecker product of a small and a large factor, each of which may be a product of two
//! matrices (Edalati et al. 2022, arXiv:2212.10650; LyCORIS, arXiv:2309.14859). The scale is alpha/rank; 1 when both
//! factors are whole.

use crate::kinds::{LayerTensors, NewLayer};
use crate::layer::{AdapterLayer, Pass};
use crate::loha::with_core;
use crate::rebuilt::rebuilt;
use crate::site::Site;
use sdtrain_state_dict::maps::lora_tensor::LoraTensor;
use tch::{Kind, Tensor};

const SMALL: [LoraTensor; 3] = [LoraTensor::LokrW1, LoraTensor::LokrW1A, LoraTensor::LokrW1B];
const LARGE: [LoraTensor; 4] = [LoraTensor::LokrW2, LoraTensor::LokrW2A, LoraTensor::LokrW2B, LoraTensor::LokrT2];

/// Two factors.
#[derive(Debug)]
pub struct LokrLayer {
    small: Factor,
    large: Factor,
    rank: i64,
    alpha: f64,
    scale: f64,
}

/// A matrix, or what it is the product of.
#[derive(Debug)]
enum Factor {
    /// `[rows, columns]`; the large one beside a convolution `[rows, columns, kernel, kernel]`.
    Whole(Tensor),
    /// `[rows, rank]`, `[rank, columns]`; the large one beside a convolution has all kernels in its columns.
    Split(Tensor, Tensor),
    /// `[rank, rows]`, `[rank, columns]`, `[rank, rank, kernel, kernel]`.
    Core(Tensor, Tensor, Tensor),
}

impl Factor {
    fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Factor::Whole(whole) => vec![whole],
            Factor::Split(left, right) => vec![left, right],
            Factor::Core(left, right, core) => vec![left, right, core],
        }
    }

    fn rank(&self) -> Option<i64> {
        match self {
            Factor::Whole(_) => None,
            Factor::Split(_, right) | Factor::Core(_, right, _) => Some(right.size()[0]),
        }
    }

    /// Rows and columns, where the kernel of this size is no part of the columns.
    fn sides(&self, kernel: i64) -> (i64, i64) {
        match self {
            Factor::Whole(whole) => (whole.size()[0], whole.size()[1]),
            Factor::Split(left, right) => (left.size()[0], right.size()[1] / kernel),
            Factor::Core(left, right, _) => (left.size()[1], right.size()[1]),
        }
    }
}

impl LokrLayer {
    /// As LyCORIS begins: Kaiming's uniform distribution (a = √5) everywhere but in the last matrix, which is zero.
    pub fn create(new: &mut NewLayer) -> Box<dyn AdapterLayer> {
        let weight = new.site.shape();
        let kernel: i64 = weight[2..].iter().product();
        let sizes = [weight[0], weight[1], kernel, new.rank].map(|size| size as usize);
        let factors = new.config.lokr.factors(sizes[0], sizes[1], sizes[2], sizes[3]);
        let (rank, sides) = (new.rank, |sides: (usize, usize)| (sides.0 as i64, sides.1 as i64));
        let kaiming = |fan_in: i64| 1.0 / (fan_in as f64).sqrt();
        let (rows, columns) = sides(factors.small);
        let small = match factors.small_is_split {
            true => {
                let left = new.uniform(&[rows, rank], kaiming(rank));
                Factor::Split(left, new.uniform(&[rank, columns], kaiming(columns)))
            }
            false => Factor::Whole(new.uniform(&[rows, columns], kaiming(columns))),
        };
        let (rows, columns) = sides(factors.large);
        let large = match factors.large_is_split {
            true => {
                let left = new.uniform(&[rows, rank], kaiming(rank));
                Factor::Split(left, new.zeros(&[rank, columns * kernel]))
            }
            false => {
                let shape: Vec<i64> = [rows, columns].into_iter().chain(weight[2..].iter().copied()).collect();
                Factor::Whole(new.zeros(&shape))
            }
        };
        let is_whole = small.rank().or(large.rank()).is_none();
        // LyCORIS writes the rank as alpha when no matrix has it, so that the scale reads as 1 everywhere.
        let alpha = if is_whole { rank as f64 } else { new.alpha };
        Box::new(LokrLayer { small, large, rank, alpha, scale: alpha / rank as f64 })
    }

    /// From a file's tensors, if they are of this kind.
    pub fn read(site: &Site, tensors: &mut LayerTensors) -> Option<Result<Box<dyn AdapterLayer>, String>> {
        if !tensors.has(&SMALL) && !tensors.has(&LARGE) {
            return None;
        }
        let small = match SMALL.map(|tensor| tensors.take(tensor)) {
            [Some(whole), None, None] => Factor::Whole(whole),
            [None, Some(left), Some(right)] => Factor::Split(left, right),
            _ => return Some(Err("its small factor is incomplete".into())),
        };
        let large = match LARGE.map(|tensor| tensors.take(tensor)) {
            [Some(whole), None, None, None] => Factor::Whole(whole),
            [None, Some(left), Some(right), None] => Factor::Split(left, right),
            [None, Some(left), Some(right), Some(core)] => Factor::Core(left, right, core),
            _ => return Some(Err("its large factor is incomplete".into())),
        };
        if let Err(reason) = check(site, &small, &large) {
            return Some(Err(reason));
        }
        // A file of LyCORIS says alpha without a rank when both factors are whole, and means a scale of 1; PEFT's form
        // says both in the metadata.
        let split = small.rank().or(large.rank());
        let described = tensors.described_rank();
        let rank = split.or(described).unwrap_or(1);
        if rank <= 0 {
            return Some(Err(format!("its rank is {rank}")));
        }
        let alpha = tensors.alpha(rank);
        let scale = if split.is_none() && described.is_none() { 1.0 } else { alpha / rank as f64 };
        Some(Ok(Box::new(LokrLayer { small, large, rank, alpha, scale })))
    }

    fn named(&self) -> Vec<(LoraTensor, &Tensor)> {
        let names = |factor: &Factor, all: &[LoraTensor]| match factor {
            Factor::Whole(_) => all[..1].to_vec(),
            _ => all[1..].to_vec(),
        };
        let (small, large) = (names(&self.small, &SMALL), names(&self.large, &LARGE));
        small.into_iter().zip(self.small.tensors()).chain(large.into_iter().zip(self.large.tensors())).collect()
    }

    /// How the product is made from [`AdapterLayer::factors`].
    fn product(&self, site: &Site, scale: f64) -> impl Fn(&[Tensor]) -> Tensor + 'static {
        let shape = site.shape();
        let smalls = self.small.tensors().len();
        let kernel: i64 = shape[2..].iter().product();
        let (_, columns) = self.large.sides(kernel);
        move |factors| {
            let (small, large) = factors.split_at(smalls);
            let small = match small {
                [left, right] => left.matmul(right),
                _ => small[0].shallow_clone(),
            };
            let large = match large {
                [left, right, core] => with_core(core, left, right),
                [left, right] => left.matmul(right),
                _ => large[0].shallow_clone(),
            };
            // [a, 1, c, 1, 1] · [1, b, 1, d, kernel] → [a·b, c·d, kernel]
            let size = small.size();
            let large = large.reshape([1, -1, 1, columns, kernel]);
            (small.reshape([size[0], 1, size[1], 1, 1]) * large).reshape(&shape) * scale
        }
    }
}

fn check(site: &Site, small: &Factor, large: &Factor) -> Result<(), String> {
    let weight = site.shape();
    let kernel: i64 = weight[2..].iter().product();
    let sizes: Vec<Vec<i64>> = small.tensors().into_iter().chain(large.tensors()).map(Tensor::size).collect();
    let wrong = || Err(format!("factors {sizes:?} beside a weight {weight:?}"));
    let flat = |factor: &Factor, least: usize| factor.tensors().iter().all(|tensor| tensor.dim() >= least);
    if !flat(small, 2) || !flat(large, 2) {
        return wrong();
    }
    let ranks_fit = match (small, large) {
        (Factor::Split(left, right), _) if left.size()[1] != right.size()[0] => false,
        (_, Factor::Split(left, right)) => left.size()[1] == right.size()[0] && right.size()[1] % kernel == 0,
        (_, Factor::Core(left, right, core)) => {
            let rank = right.size()[0];
            let core_size: Vec<i64> = [rank, rank].into_iter().chain(weight[2..].iter().copied()).collect();
            weight.len() > 2 && left.size()[0] == rank && core.size() == core_size
        }
        (_, Factor::Whole(whole)) => whole.size()[2..].iter().product::<i64>() == kernel,
    };
    let has_rank = |factor: &Factor| factor.rank() != Some(0);
    if !ranks_fit || !has_rank(small) || !has_rank(large) || small.tensors().iter().any(|tensor| tensor.dim() != 2) {
        return wrong();
    }
    let (small, large) = (small.sides(1), large.sides(kernel));
    match (small.0 * large.0, small.1 * large.1) == (weight[0], weight[1]) {
        true => Ok(()),
        false => wrong(),
    }
}

impl AdapterLayer for LokrLayer {
    fn added(&self, site: &Site, pass: &Pass) -> Tensor {
        let delta = rebuilt(&self.factors(), self.product(site, pass.strength * self.scale));
        pass.drop_rows(site, site.apply(pass.input, &delta))
    }

    fn weight_delta(&self, site: &Site) -> Tensor {
        let factors: Vec<Tensor> = self.factors().into_iter().map(|factor| factor.to_kind(Kind::Float)).collect();
        self.product(site, self.scale)(&factors)
    }

    fn parameters(&self) -> Vec<(LoraTensor, &Tensor)> {
        self.named()
    }

    fn factors(&self) -> Vec<&Tensor> {
        self.small.tensors().into_iter().chain(self.large.tensors()).collect()
    }

    fn rank(&self) -> Option<i64> {
        Some(self.rank)
    }

    fn alpha(&self) -> Option<f64> {
        Some(self.alpha)
    }
}
