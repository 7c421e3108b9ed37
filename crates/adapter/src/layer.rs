//! The seam of the LoRA family: what the adapter of one layer can do, whatever its kind.

use crate::dropout::Dropout;
use crate::site::{Site, as_kind};
use sdtrain_model::LayerAdapter;
use sdtrain_state_dict::maps::lora_tensor::LoraTensor;
use std::cell::{Cell, OnceCell};
use std::fmt;
use tch::{Kind, Tensor};

/// One kind of adapter beside one layer, whose weight `W` it changes to `W + strength · ΔW`.
pub trait AdapterLayer: fmt::Debug {
    /// What it adds to the layer's output, in the dtype of the activations.
    fn added(&self, site: &Site, pass: &Pass) -> Tensor;

    /// `ΔW` at full strength beside the weight of `site`, in that weight's size and in f32; part of the graph.
    fn weight_delta(&self, site: &Site) -> Tensor;

    /// What the bias changes by at full strength, `[outputs]` in f32; none where it stays.
    fn bias_delta(&self, _site: &Site) -> Option<Tensor> {
        None
    }

    /// What is trained: leaf tensors in f32.
    fn parameters(&self) -> Vec<(LoraTensor, &Tensor)>;

    /// The part of `ΔW` that its factors make; all of it but in kinds that stand over another.
    fn product(&self, site: &Site) -> Tensor {
        self.weight_delta(site)
    }

    /// The tensors that [`AdapterLayer::product`] is linear in, each of them.
    fn factors(&self) -> Vec<&Tensor>;

    /// Multiplies the product by `ratio`, a single number on the device, all factors alike.
    fn shrink(&self, ratio: &Tensor) {
        let factors = self.factors();
        let share = ratio.pow_tensor_scalar(1.0 / factors.len() as f64);
        for factor in factors {
            let _ = factor.shallow_clone().g_mul_(&share);
        }
    }

    /// What a file of this form holds of it, or why the form has no place for it. Alpha comes apart.
    fn tensors(&self, _site: &Site, _form: Form) -> Result<Vec<(LoraTensor, Tensor)>, String> {
        Ok(self.parameters().into_iter().map(|(tensor, value)| (tensor, value.detach())).collect())
    }

    /// Size of the bottleneck, in kinds that have one.
    fn rank(&self) -> Option<i64> {
        None
    }

    /// The alpha whose alpha/rank is the scale, in kinds that have one.
    fn alpha(&self) -> Option<f64> {
        None
    }
}

/// How files name their tensors, and what some of them mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// kohya's scripts and LyCORIS.
    Kohya,
    /// PEFT and diffusers.
    Peft,
}

/// One use of an adapter.
#[derive(Debug)]
pub struct Pass<'p> {
    /// The layer's input; in training some of it may be dropped.
    pub input: &'p Tensor,
    /// The layer's own output.
    pub output: &'p Tensor,
    /// How often the change counts.
    pub strength: f64,
    dropout: Option<&'p Dropout>,
}

impl Pass<'_> {
    /// Whether [`Pass::drop_ranks`] may change anything.
    pub fn may_drop_ranks(&self) -> bool {
        self.dropout.is_some_and(Dropout::may_drop_ranks)
    }

    /// `low`, `[batch, …, rank]` or `[batch, rank, height, width]` of a convolution, with some of its numbers, and some ranks of
    /// each example, left out while training.
    pub fn drop_ranks(&self, site: &Site, low: Tensor) -> Tensor {
        let low = self.dropout.and_then(|dropout| dropout.of_rank_activations(&low)).unwrap_or(low);
        let size = low.size();
        let mut shape = vec![1; size.len()];
        let channels = if site.is_convolution() { 1 } else { size.len() - 1 };
        (shape[0], shape[channels]) = (size[0], size[channels]);
        match self.dropout.and_then(|dropout| dropout.of_ranks(&shape, &low)) {
            Some(mask) => low * mask,
            None => low,
        }
    }

    /// What is `added` to the layer's output, with some rows of `ΔW` left out while training.
    pub fn drop_rows(&self, site: &Site, added: Tensor) -> Tensor {
        match self.dropout.and_then(|dropout| dropout.of_ranks(&[site.outputs()], &added)) {
            Some(mask) => added * site.along_channels(&mask),
            None => added,
        }
    }
}

/// An adapter with the layer it stands beside, ready to be attached.
#[derive(Debug)]
pub struct Attached {
    site: Site,
    adapter: Box<dyn AdapterLayer>,
    strength: Cell<f64>,
    dropout: OnceCell<Dropout>,
}

impl Attached {
    /// Of full strength, without dropout.
    pub fn new(site: Site, adapter: Box<dyn AdapterLayer>) -> Attached {
        Attached { site, adapter, strength: Cell::new(1.0), dropout: OnceCell::new() }
    }

    /// The layer beside it.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The adapter itself.
    pub fn adapter(&self) -> &dyn AdapterLayer {
        &*self.adapter
    }

    /// How often its change counts: 1 as trained, 0 not at all.
    pub fn strength(&self) -> f64 {
        self.strength.get()
    }

    pub(crate) fn set_strength(&self, strength: f64) {
        self.strength.set(strength);
    }

    pub(crate) fn set_dropout(&self, dropout: Dropout) {
        // Set once, when training begins.
        let _ = self.dropout.set(dropout);
    }

    pub(crate) fn dropout(&self) -> Option<&Dropout> {
        self.dropout.get()
    }

    /// What the weight beside it changes by at the present strength, in f32 and in the weight's size: exact for every
    /// kind, for the weight as it is now.
    pub fn weight_delta(&self) -> Tensor {
        self.adapter.weight_delta(&self.site) * self.strength.get()
    }

    /// What the bias beside it changes by at the present strength, `[outputs]` in f32; none where it stays.
    pub fn bias_delta(&self) -> Option<Tensor> {
        self.adapter.bias_delta(&self.site).map(|delta| delta * self.strength.get())
    }

    /// Weight and bias with the adapter in them, in f32 (no bias where it stays or there is none).
    pub fn merged(&self) -> (Tensor, Option<Tensor>) {
        tch::no_grad(|| {
            let weight = as_kind(self.site.weight(), Kind::Float) + self.weight_delta();
            let bias = self.site.bias().zip(self.bias_delta());
            (weight, bias.map(|(bias, delta)| as_kind(bias, Kind::Float) + delta))
        })
    }

    /// Shrinks what the factors make (at full strength) to the Frobenius norm `largest` where it is longer. Decided on the
    /// device. (kohya-ss/sd-scripts, networks/lora.py: `scale_weight_norms`)
    pub(crate) fn cap_norm(&self, largest: f64) {
        tch::no_grad(|| {
            let norm = self.adapter.product(&self.site).norm();
            // Of a norm of zero the reciprocal is infinite, which the limit makes 1.
            self.adapter.shrink(&(norm.reciprocal() * largest).clamp_max(1.0));
        });
    }
}

impl LayerAdapter for Attached {
    fn added(&self, input: &Tensor, output: &Tensor) -> Option<Tensor> {
        let (strength, dropout) = (self.strength.get(), self.dropout.get());
        if strength == 0.0 || dropout.is_some_and(Dropout::leaves_out) {
            return None;
        }
        let dropped = dropout.and_then(|dropout| dropout.of_input(input));
        let pass = Pass { input: dropped.as_ref().unwrap_or(input), output, strength, dropout };
        Some(self.adapter.added(&self.site, &pass))
    }
}
