//! Adapters merged with adapters: the weighted sum of their weight changes, as one low-rank adapter or as whole differences.
//!
//! With ranks one after the other nothing is lost: `Σ wᵢ·sᵢ·Uᵢ·Dᵢ = [w₁s₁U₁ w₂s₂U₂ …]·[D₁; D₂; …]`, where `sᵢ` is alpha/rank
//! of the i-th adapter. The scale lies in the matrices, so that alpha is the new rank: an alpha that stays what it was while
//! the rank grows would make the result weaker, and adding the matrices themselves would give `(U₁ + U₂)·(D₁ + D₂)`, with
//! products that nobody trained.

use crate::error::{Error, Result};
use crate::lora::Lora;
use crate::low_rank::{LowRank, truncate};
use sdtrain_state_dict::Reader;
use sdtrain_state_dict::maps::lora_peft::Part;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// The weighted sum of weight changes, layer by layer.
#[derive(Debug, Default)]
pub struct AdapterSum {
    layers: BTreeMap<(Part, String), LayerSum>,
}

/// The sum beside one layer.
#[derive(Debug)]
struct LayerSum {
    /// Size of the weight: `[outputs, inputs]`, or `[outputs, inputs, kernel, kernel]`.
    shape: Vec<i64>,
    low_rank: Vec<LowRank>,
    /// Changes that are no product of two small matrices, added up; f64, `[outputs, fan_in]`.
    dense: Option<Tensor>,
    /// What the bias changes by; f64, `[outputs]`.
    bias: Option<Tensor>,
}

/// One layer of the merged adapter; its alpha is its rank, so its change is `up · down`.
#[derive(Debug)]
pub struct MergedLayer {
    /// The network.
    pub part: Part,
    /// The layer's path in it.
    pub path: String,
    /// `[rank, inputs]`, or `[rank, inputs, kernel, kernel]` for a convolution; f32.
    pub down: Tensor,
    /// `[outputs, rank]`, or `[outputs, rank, 1, 1]`; f32.
    pub up: Tensor,
}

impl MergedLayer {
    /// Size of the bottleneck.
    pub fn rank(&self) -> i64 {
        self.down.size()[0]
    }
}

/// One layer of a sum that is kept whole.
#[derive(Debug)]
pub struct WholeChange {
    /// The network.
    pub part: Part,
    /// The layer's path in it.
    pub path: String,
    /// What the weight changes by, in its size; f32.
    pub diff: Tensor,
    /// What the bias changes by, `[outputs]`, where it does; f32.
    pub bias: Option<Tensor>,
}

/// What a smaller rank lost, by the Frobenius norm: the share of the weight change that is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct Truncation {
    /// Over all layers together.
    pub total: f64,
    /// In the layer that lost most.
    pub worst: f64,
    /// Its full path.
    pub worst_layer: String,
}

impl AdapterSum {
    /// Adds `weight` times the plain LoRA in `file`. Needs no model: the sizes are those of its matrices.
    pub fn add_file(&mut self, file: &dyn Reader, weight: f64) -> Result<()> {
        for (part, path, shape, factors) in LowRank::read_all(file)? {
            let layer = self.layer(part, path, shape, &file.path().display().to_string())?;
            layer.low_rank.push(factors.times(weight));
        }
        Ok(())
    }

    /// Adds `weight` times `lora`, of any kind, as it stands beside its layers; `name` is for messages.
    pub fn add(&mut self, lora: &Lora, weight: f64, name: &str) -> Result<()> {
        lora.set_strength(1.0);
        for module in lora.modules() {
            let changes = || tch::no_grad(|| (module.layer.weight_delta(), module.layer.bias_delta()));
            let (delta, bias) = sdtrain_torch::catch(changes)?;
            let layer = self.layer(module.part, module.path.clone(), delta.size(), name)?;
            match LowRank::of(module) {
                Some(factors) => layer.low_rank.push(factors.times(weight)),
                None => layer.add_dense(&delta, weight)?,
            }
            if let Some(bias) = bias {
                layer.bias = Some(added(layer.bias.take(), &bias, weight)?);
            }
        }
        Ok(())
    }

    fn layer(&mut self, part: Part, path: String, shape: Vec<i64>, file: &str) -> Result<&mut LayerSum> {
        let full_path = format!("{part}.{path}");
        let new = || LayerSum { shape: shape.clone(), low_rank: Vec::new(), dense: None, bias: None };
        let layer = self.layers.entry((part, path)).or_insert_with(new);
        if layer.shape == shape {
            return Ok(layer);
        }
        let reason =
            format!("its `{full_path}` changes a weight {shape:?}, that of the files before it {:?}", layer.shape);
        Err(Error::DoesNotFit { file: file.to_string(), reason, family: None })
    }

    /// The sum with the ranks one after the other, exact but for the rounding of one product; an error when a change in it is of
    /// no low rank.
    pub fn concatenated(&self) -> Result<Vec<MergedLayer>> {
        self.check_no_bias()?;
        let merged = self.layers.iter().map(|((part, path), layer)| {
            if layer.dense.is_some() {
                return Err(Error::NotLowRank(format!("{part}.{path}")));
            }
            let (up, down) = LowRank::side_by_side(&layer.low_rank, Kind::Float)?;
            layer.merged(*part, path, up, down)
        });
        merged.collect()
    }

    /// The sum itself, exact but for the rounding of one sum, whatever the adapters are: for a file of whole differences.
    pub fn whole(&self) -> Result<Vec<WholeChange>> {
        let change = |((part, path), layer): (&(Part, String), &LayerSum)| -> Result<WholeChange> {
            let product = match layer.low_rank.is_empty() {
                true => None,
                false => {
                    let (up, down) = LowRank::side_by_side(&layer.low_rank, Kind::Double)?;
                    Some(up.f_matmul(&down)?)
                }
            };
            let diff = match (product, &layer.dense) {
                (Some(product), Some(dense)) => product.f_add(dense)?,
                (Some(product), None) => product,
                (None, Some(dense)) => dense.shallow_clone(),
                (None, None) => unreachable!("a layer is made for something to add to it"),
            };
            let bias = layer.bias.as_ref().map(|bias| bias.f_to_kind(Kind::Float)).transpose()?;
            let diff = diff.f_to_kind(Kind::Float)?.f_reshape(&layer.shape)?;
            Ok(WholeChange { part: *part, path: path.clone(), diff, bias })
        };
        self.layers.iter().map(change).collect()
    }

    /// Matrices change no bias.
    fn check_no_bias(&self) -> Result<()> {
        match self.layers.iter().find(|(_, layer)| layer.bias.is_some()) {
            Some(((part, path), _)) => Err(Error::ChangesBias(format!("{part}.{path}"))),
            None => Ok(()),
        }
    }

    /// The sum as the nearest adapter of `rank` (`conv_rank` beside kernels larger than 1), by singular values, and what
    /// that lost. Nothing is lost where the sum has no more ranks.
    pub fn truncated(&self, rank: i64, conv_rank: i64) -> Result<(Vec<MergedLayer>, Truncation)> {
        self.check_no_bias()?;
        let mut merged = Vec::new();
        let mut truncation = Truncation { total: 0.0, worst: 0.0, worst_layer: String::new() };
        let (mut lost, mut all) = (0.0, 0.0);
        for ((part, path), layer) in &self.layers {
            let kernel = layer.shape.get(2).copied().unwrap_or(1);
            let wanted = if kernel > 1 { conv_rank } else { rank };
            let result = truncate(&layer.low_rank, layer.dense.as_ref(), wanted)?;
            lost += result.lost;
            all += result.all;
            let share = share(result.lost, result.all);
            if share > truncation.worst {
                (truncation.worst, truncation.worst_layer) = (share, format!("{part}.{path}"));
            }
            merged.push(layer.merged(*part, path, result.up, result.down)?);
        }
        truncation.total = share(lost, all);
        Ok((merged, truncation))
    }
}

impl LayerSum {
    fn add_dense(&mut self, delta: &Tensor, weight: f64) -> Result<()> {
        self.dense = Some(added(self.dense.take(), &delta.f_flatten(1, -1)?, weight)?);
        Ok(())
    }

    /// The two matrices in the sizes that files have.
    fn merged(&self, part: Part, path: &str, up: Tensor, down: Tensor) -> Result<MergedLayer> {
        let rank = down.size()[0];
        let down_shape: Vec<i64> = std::iter::once(rank).chain(self.shape[1..].iter().copied()).collect();
        let up_shape: Vec<i64> = [self.shape[0], rank].into_iter().chain(self.shape[2..].iter().map(|_| 1)).collect();
        let shaped = |tensor: Tensor, shape: &[i64]| tensor.f_to_kind(Kind::Float)?.f_reshape(shape);
        Ok(MergedLayer { part, path: path.to_string(), down: shaped(down, &down_shape)?, up: shaped(up, &up_shape)? })
    }
}

/// `sum + weight · change` in f64.
fn added(sum: Option<Tensor>, change: &Tensor, weight: f64) -> Result<Tensor> {
    let change = change.f_to_kind(Kind::Double)?.f_mul_scalar(weight)?;
    Ok(match sum {
        Some(sum) => sum.f_add(&change)?,
        None => change,
    })
}

/// The share of a norm, from squares of norms.
fn share(lost: f64, all: f64) -> f64 {
    if all > 0.0 { (lost / all).sqrt() } else { 0.0 }
}
