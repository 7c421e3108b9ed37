//! Adapters merged with adapters: the weighted sum of their weight changes, as one low-rank adapter.
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
            if module.layer.bias_delta().is_some() {
                let reason =
                    format!("`{}` changes a bias, which a low-rank adapter has no place for", module.full_path());
                return Err(Error::DoesNotFit { file: name.to_string(), reason });
            }
            let delta = sdtrain_torch::catch(|| tch::no_grad(|| module.layer.weight_delta()))?;
            let layer = self.layer(module.part, module.path.clone(), delta.size(), name)?;
            match LowRank::of(module) {
                Some(factors) => layer.low_rank.push(factors.times(weight)),
                None => layer.add_dense(&delta, weight)?,
            }
        }
        Ok(())
    }

    fn layer(&mut self, part: Part, path: String, shape: Vec<i64>, file: &str) -> Result<&mut LayerSum> {
        let full_path = format!("{part}.{path}");
        let new = || LayerSum { shape: shape.clone(), low_rank: Vec::new(), dense: None };
        let layer = self.layers.entry((part, path)).or_insert_with(new);
        if layer.shape == shape {
            return Ok(layer);
        }
        let reason =
            format!("its `{full_path}` changes a weight {shape:?}, that of the files before it {:?}", layer.shape);
        Err(Error::DoesNotFit { file: file.to_string(), reason })
    }

    /// The sum with the ranks one after the other, exact but for the rounding of one product; an error when a change in it is of
    /// no low rank.
    pub fn concatenated(&self) -> Result<Vec<MergedLayer>> {
        let merged = self.layers.iter().map(|((part, path), layer)| {
            if layer.dense.is_some() {
                return Err(Error::NotLowRank(format!("{part}.{path}")));
            }
            let (up, down) = LowRank::side_by_side(&layer.low_rank, Kind::Float)?;
            layer.merged(*part, path, up, down)
        });
        merged.collect()
    }

    /// The sum as the nearest adapter of `rank` (`conv_rank` beside kernels larger than 1), by singular values, and what
    /// that lost. Nothing is lost where the sum has no more ranks.
    pub fn truncated(&self, rank: i64, conv_rank: i64) -> Result<(Vec<MergedLayer>, Truncation)> {
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
        let before = self.dense.take();
        self.dense = Some(sdtrain_torch::catch(|| {
            let change = delta.flatten(1, -1).to_kind(Kind::Double) * weight;
            before.map_or_else(|| change.shallow_clone(), |sum| sum + &change)
        })?);
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

/// The share of a norm, from squares of norms.
fn share(lost: f64, all: f64) -> f64 {
    if all > 0.0 { (lost / all).sqrt() } else { 0.0 }
}
