//! LoRA: `ΔW = alpha/rank · up · down` (Hu et al. 2021, arXiv:2106.09685); beside a convolution down has its kernel and
//! up is 1 × 1 (LoCon), optionally with a core between two 1 × 1 convolutions (LyCORIS: Tucker).

use crate::kinds::{LayerTensors, NewLayer};
use crate::layer::{AdapterLayer, Form, Pass};
use crate::site::{Site, as_kind};
use sdtrain_state_dict::maps::lora_tensor::LoraTensor;
use sdtrain_torch::{low_rank, or_panic};
use tch::{Kind, Tensor};

/// Down to `rank` channels and up again.
#[derive(Debug)]
pub struct LoraLayer {
    /// `[rank, inputs]`, or `[rank, inputs, kernel, kernel]` for a convolution (`[rank, inputs, 1, 1]` with a core).
    down: Tensor,
    /// `[rank, rank, kernel, kernel]`.
    mid: Option<Tensor>,
    /// `[outputs, rank]`, or `[outputs, rank, 1, 1]`.
    up: Tensor,
    alpha: f64,
}

impl LoraLayer {
    /// Down from Kaiming's uniform distribution (a = √5, as kohya's scripts and PEFT have it), up zero.
    pub fn create(new: &mut NewLayer) -> Box<dyn AdapterLayer> {
        let weight = new.site.shape();
        let bound = 1.0 / (new.site.fan_in() as f64).sqrt();
        let down_shape: Vec<i64> = std::iter::once(new.rank).chain(weight[1..].iter().copied()).collect();
        let up_shape: Vec<i64> = [weight[0], new.rank].into_iter().chain(weight[2..].iter().map(|_| 1)).collect();
        let down = new.uniform(&down_shape, bound);
        let up = new.zeros(&up_shape);
        Box::new(LoraLayer { down, mid: None, up, alpha: new.alpha })
    }

    /// From a file's tensors, if they are of this kind.
    pub fn read(site: &Site, tensors: &mut LayerTensors) -> Option<Result<Box<dyn AdapterLayer>, String>> {
        if !tensors.has(&[LoraTensor::Down, LoraTensor::Up, LoraTensor::Mid]) {
            return None;
        }
        let [down, up, mid] = [LoraTensor::Down, LoraTensor::Up, LoraTensor::Mid].map(|tensor| tensors.take(tensor));
        let (Some(down), Some(up)) = (down, up) else {
            return Some(Err("one of its two matrices is missing".into()));
        };
        let (weight, down_size, up_size) = (site.shape(), down.size(), up.size());
        let rank = down_size.first().copied().unwrap_or_default();
        let kernel = &weight[2..];
        let ones = vec![1; kernel.len()];
        let inputs_fit = match &mid {
            None => down_size.get(1..) == Some(&weight[1..]),
            Some(mid) => {
                mid.size() == [&[rank, rank], kernel].concat() && down_size == [&[rank, weight[1]], &ones[..]].concat()
            }
        };
        let outputs_fit = up_size == [&[weight[0], rank], &ones[..]].concat();
        if rank == 0 || !inputs_fit || !outputs_fit {
            return Some(Err(format!("matrices {down_size:?} and {up_size:?} beside a weight {weight:?}")));
        }
        let alpha = tensors.alpha(rank);
        Some(Ok(Box::new(LoraLayer { down, mid, up, alpha })))
    }

    fn scale(&self) -> f64 {
        self.alpha / self.down.size()[0] as f64
    }
}

impl AdapterLayer for LoraLayer {
    fn added(&self, site: &Site, pass: &Pass) -> Tensor {
        let (input, kind) = (pass.input, pass.input.kind());
        let scale = pass.strength * self.scale();
        if !site.is_convolution() && !pass.may_drop_ranks() {
            return or_panic(low_rank(input, &self.down, &self.up, scale));
        }
        let (down, up) = (as_kind(&self.down, kind), as_kind(&self.up, kind));
        let none = None::<&Tensor>;
        let Some((stride, padding)) = site.convolution() else {
            let low = pass.drop_ranks(site, input.linear(&down, none) * scale);
            return low.linear(&up, none);
        };
        let (stride, padding) = ([stride, stride], [padding, padding]);
        let low = match &self.mid {
            None => input.conv2d(&down, none, stride, padding, [1, 1], 1),
            Some(mid) => {
                let low = input.conv2d(&down, none, [1, 1], [0, 0], [1, 1], 1);
                low.conv2d(&as_kind(mid, kind), none, stride, padding, [1, 1], 1)
            }
        };
        pass.drop_ranks(site, low * scale).conv2d(&up, none, [1, 1], [0, 0], [1, 1], 1)
    }

    fn weight_delta(&self, site: &Site) -> Tensor {
        let (down, up) = (self.down.to_kind(Kind::Float), self.up.to_kind(Kind::Float));
        let down = match &self.mid {
            None => down.flatten(1, -1),
            // core[r, s, …] · down[s, i] → [r, i, …]
            Some(mid) => Tensor::einsum("rskl,si->rikl", &[mid.to_kind(Kind::Float), down.flatten(1, -1)], None::<i64>)
                .flatten(1, -1),
        };
        up.flatten(1, -1).matmul(&down).reshape(site.shape()) * self.scale()
    }

    fn parameters(&self) -> Vec<(LoraTensor, &Tensor)> {
        let mid = self.mid.as_ref().map(|mid| (LoraTensor::Mid, mid));
        [(LoraTensor::Down, &self.down)].into_iter().chain(mid).chain([(LoraTensor::Up, &self.up)]).collect()
    }

    fn factors(&self) -> Vec<&Tensor> {
        self.parameters().into_iter().map(|(_, tensor)| tensor).collect()
    }

    fn tensors(&self, _site: &Site, form: Form) -> Result<Vec<(LoraTensor, Tensor)>, String> {
        if form == Form::Peft && self.mid.is_some() {
            return Err("PEFT's form has no place for the core of a convolution".into());
        }
        Ok(self.parameters().into_iter().map(|(tensor, value)| (tensor, value.detach())).collect())
    }

    fn rank(&self) -> Option<i64> {
        Some(self.down.size()[0])
    }

    fn alpha(&self) -> Option<f64> {
        Some(self.alpha)
    }
}
