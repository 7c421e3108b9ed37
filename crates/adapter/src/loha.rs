//! LoHa: `ΔW = alpha/rank · (W1_A·W1_B) ∘ (W2_A·W2_B)`, a product element by element (Hyeon-Woo et al. 2021,
//! arXiv:2108.06098). Beside a convolution the matrices span inputs × kernel × kernel, or stand around a core each.

use crate::kinds::{LayerTensors, NewLayer};
use crate::layer::{AdapterLayer, Pass};
use crate::rebuilt::rebuilt;
use crate::site::Site;
use sdtrain_state_dict::maps::lora_tensor::LoraTensor;
use tch::Tensor;

/// The names of the tensors in the order in which they are kept; the cores are the last of each half.
const HALVES: [[LoraTensor; 3]; 2] = [
    [LoraTensor::HadaW1A, LoraTensor::HadaW1B, LoraTensor::HadaT1],
    [LoraTensor::HadaW2A, LoraTensor::HadaW2B, LoraTensor::HadaT2],
];

/// Two low-rank halves.
#[derive(Debug)]
pub struct LohaLayer {
    /// Of each half: `[outputs, rank]` and `[rank, inputs·kernel·kernel]`, or, around a core `[rank, rank, kernel, kernel]`,
    /// `[rank, outputs]` and `[rank, inputs]`.
    halves: [Vec<Tensor>; 2],
    alpha: f64,
}

impl LohaLayer {
    /// As LyCORIS begins: the left matrices from N(0, 0.1²) and zero, the right ones from N(0, 1).
    pub fn create(new: &mut NewLayer) -> Box<dyn AdapterLayer> {
        let left = [new.site.outputs(), new.rank];
        let right = [new.rank, new.site.fan_in()];
        let first = vec![new.normal(&left, 0.1), new.normal(&right, 1.0)];
        let second = vec![new.zeros(&left), new.normal(&right, 1.0)];
        Box::new(LohaLayer { halves: [first, second], alpha: new.alpha })
    }

    /// From a file's tensors, if they are of this kind.
    pub fn read(site: &Site, tensors: &mut LayerTensors) -> Option<Result<Box<dyn AdapterLayer>, String>> {
        if !tensors.has(HALVES.as_flattened()) {
            return None;
        }
        let halves = HALVES.map(|half| half.map(|tensor| tensors.take(tensor)));
        let weight = site.shape();
        let mut found = Vec::new();
        for [left, right, core] in halves {
            let (Some(left), Some(right)) = (left, right) else {
                return Some(Err("one of its four matrices is missing".into()));
            };
            let rank = right.size().first().copied().unwrap_or_default();
            let (lefts, rights) = match &core {
                None => (vec![weight[0], rank], vec![rank, site.fan_in()]),
                Some(_) => (vec![rank, weight[0]], vec![rank, weight[1]]),
            };
            let cores: Vec<i64> = [rank, rank].into_iter().chain(weight[2..].iter().copied()).collect();
            let core_fits = core.as_ref().is_none_or(|core| weight.len() > 2 && core.size() == cores);
            if rank == 0 || left.size() != lefts || right.size() != rights || !core_fits {
                return Some(Err(format!(
                    "matrices {:?} and {:?} beside a weight {weight:?}",
                    left.size(),
                    right.size()
                )));
            }
            found.push([left, right].into_iter().chain(core).collect::<Vec<Tensor>>());
        }
        let halves: [Vec<Tensor>; 2] = found.try_into().expect("there are two");
        let rank = halves[0][1].size()[0];
        if halves[1][1].size()[0] != rank || halves[0].len() != halves[1].len() {
            return Some(Err("its two halves have different ranks or cores".into()));
        }
        let alpha = tensors.alpha(rank);
        Some(Ok(Box::new(LohaLayer { halves, alpha })))
    }

    fn scale(&self) -> f64 {
        self.alpha / self.halves[0][1].size()[0] as f64
    }

    fn named(&self) -> impl Iterator<Item = (LoraTensor, &Tensor)> {
        HALVES.iter().zip(&self.halves).flat_map(|(names, half)| names.iter().copied().zip(half))
    }
}

/// `factors`: left, right and perhaps core of one half, then those of the other. The product, in the weight's `shape`.
fn product(factors: &[Tensor], shape: &[i64], scale: f64) -> Tensor {
    let (first, second) = factors.split_at(factors.len() / 2);
    half(first, shape) * half(second, shape) * scale
}

fn half(factors: &[Tensor], shape: &[i64]) -> Tensor {
    match factors {
        [left, right, core] => with_core(core, left, right),
        _ => factors[0].matmul(&factors[1]).reshape(shape),
    }
}

/// `Σ core[i, j, …] · left[i, p] · right[j, r]` → `[p, r, …]`.
pub(crate) fn with_core(core: &Tensor, left: &Tensor, right: &Tensor) -> Tensor {
    Tensor::einsum("ijkl,ip,jr->prkl", &[core, left, right], None::<i64>)
}

impl AdapterLayer for LohaLayer {
    fn added(&self, site: &Site, pass: &Pass) -> Tensor {
        let factors: Vec<&Tensor> = self.halves.iter().flatten().collect();
        let (shape, scale) = (site.shape(), pass.strength * self.scale());
        let delta = rebuilt(&factors, move |factors| product(factors, &shape, scale));
        pass.drop_rows(site, site.apply(pass.input, &delta))
    }

    fn weight_delta(&self, site: &Site) -> Tensor {
        let factors: Vec<Tensor> = self.halves.iter().flatten().map(Tensor::shallow_clone).collect();
        product(&factors, &site.shape(), self.scale())
    }

    fn parameters(&self) -> Vec<(LoraTensor, &Tensor)> {
        self.named().collect()
    }

    fn factors(&self) -> Vec<&Tensor> {
        self.halves.iter().flatten().collect()
    }

    fn rank(&self) -> Option<i64> {
        Some(self.halves[0][1].size()[0])
    }

    fn alpha(&self) -> Option<f64> {
        Some(self.alpha)
    }
}
