//! An optimizer whose state is shared out over the ranks: each updates its weights, and hands them to the others.

use super::Ranks;
use crate::error::{Error, Result};
use sdtrain_optimizer::{MissingState, Optimizer, ParamGroup};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// The state of all shares while it is being saved, at the lead.
pub(crate) type Gathered = Arc<Mutex<Option<Vec<(String, Tensor)>>>>;

/// The optimizer of this rank's share, which seems to be that of all weights.
pub(crate) struct Sharded {
    own: Box<dyn Optimizer>,
    /// All weights.
    groups: Vec<ParamGroup>,
    gathered: Gathered,
}

impl Sharded {
    /// `own` updates the share of this rank; `groups` are all of them.
    pub fn new(own: Box<dyn Optimizer>, groups: Vec<ParamGroup>, gathered: Gathered) -> Sharded {
        Sharded { own, groups, gathered }
    }
}

impl Optimizer for Sharded {
    fn step(&mut self, learning_rates: &[f64], found_inf: Option<&Tensor>) -> sdtrain_torch::Result<()> {
        self.own.step(learning_rates, found_inf)
    }

    fn forget_skipped(&mut self) {
        self.own.forget_skipped();
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        match gathered.as_ref() {
            Some(all) => all.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect(),
            None => self.own.state(),
        }
    }

    fn load_state(&mut self, find: &mut dyn FnMut(&str) -> Option<Tensor>) -> std::result::Result<(), MissingState> {
        self.own.load_state(find)
    }

    fn effective_rates(&self, learning_rates: &[f64]) -> Vec<f64> {
        self.own.effective_rates(learning_rates)
    }
}

/// The state of every share at the lead, by name; at the others nothing. `own` is that of this rank.
///
/// # Errors
/// [`Error::Rank`] where one is gone.
pub(crate) fn gather_state(ranks: &Ranks, own: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
    let described: Vec<(&String, Vec<i64>, String)> =
        own.iter().map(|(name, tensor)| (name, tensor.size(), format!("{:?}", tensor.kind()))).collect();
    let all = ranks.gather("optimizer state", serde_json::json!(described).to_string())?;
    let mut found = BTreeMap::new();
    for (rank, described) in all.iter().enumerate() {
        let unclear = |what: &dyn std::fmt::Display| {
            Error::Rank(format!("rank {rank} does not say clearly what its optimizer keeps: {what}"))
        };
        let described: Vec<(String, Vec<i64>, String)> =
            serde_json::from_str(described).map_err(|error| unclear(&error))?;
        for (place, (name, size, kind)) in described.into_iter().enumerate() {
            let kind = KINDS.into_iter().find(|known| format!("{known:?}") == kind).ok_or_else(|| unclear(&kind))?;
            let tensor = match rank == ranks.rank() {
                true => own[place].1.detach().f_to_device(Device::Cpu)?.f_contiguous()?,
                false => Tensor::f_zeros(size, (kind, Device::Cpu))?,
            };
            // Gloo does not know every format; bytes are bytes.
            let bytes = tensor.f_view([-1])?.f_view_dtype(Kind::Uint8)?;
            ranks.together(|group| group.broadcast(&bytes, rank))?;
            if ranks.is_lead() {
                found.entry(name).or_insert(tensor);
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Formats that optimizers keep their state in.
const KINDS: [Kind; 9] = [
    Kind::Uint8,
    Kind::Int8,
    Kind::Int16,
    Kind::Int,
    Kind::Int64,
    Kind::Half,
    Kind::BFloat16,
    Kind::Float,
    Kind::Double,
];
