//! How the gradients of all ranks become one: added up after the backward pass, while it goes on, or each share at the rank that updates it.

use super::Ranks;
use super::flat::add_up;
use super::shares::Shares;
use crate::error::Result;
use sdtrain_optimizer::{ParamGroup, gradients, with_gradients};
use sdtrain_torch::{GradientHook, Reducer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// Makes sums over all ranks of the gradients that each has accumulated; the losses are shares of the whole batch's mean, so that sums
/// are what one rank alone would have.
pub(crate) trait GradientReducer {
    /// Before the forward pass of the last part of a step, at every rank.
    fn begin_last_pass(&mut self, _ranks: &Ranks, _groups: &[ParamGroup]) -> Result<()> {
        Ok(())
    }

    /// Whether the backward pass that comes next waits for the other ranks.
    fn is_under_way(&self) -> bool {
        false
    }

    /// After the last backward pass.
    fn reduce(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()>;

    /// The norm of what all ranks have together, where `norm` is that of this one's gradients after [`GradientReducer::reduce`].
    fn total_norm(&self, _ranks: &Ranks, norm: Tensor) -> Result<Tensor> {
        Ok(norm)
    }

    /// Some parameters may have ceased to learn.
    fn mind_stopped(&mut self, _groups: &[ParamGroup]) {}

    /// In the place of the last pass at a rank that has no example in it.
    fn pass_without_examples(&mut self, _ranks: &Ranks, _groups: &[ParamGroup]) -> Result<()> {
        Ok(())
    }

    /// After the weights were updated.
    fn after_update(&mut self, _ranks: &Ranks, _groups: &[ParamGroup]) -> Result<()> {
        Ok(())
    }

    /// Whether each rank has only its share of the sums.
    fn is_shared_out(&self) -> bool {
        false
    }

    /// The names of parameters in the order that decides in which order their gradients are added up, so that a checkpoint has to keep
    /// it; empty where nothing depends on one.
    fn order(&self) -> Arc<[String]> {
        Arc::default()
    }

    /// Adds up in the order that an earlier process of the run had; at every rank.
    fn follow_order(&mut self, _ranks: &Ranks, _groups: &[ParamGroup], _order: &[String]) -> Result<()> {
        Ok(())
    }
}

/// One rank alone has the sum.
pub(crate) struct Alone;

impl GradientReducer for Alone {
    fn reduce(&mut self, _: &Ranks, _: &[ParamGroup]) -> Result<()> {
        Ok(())
    }
}

/// In buckets while the backward pass goes on: DistributedDataParallel's way. Which parameters a backward pass reaches, and in which order,
/// the first step shows; the others, and all that changes later, go the flat way.
///
/// The sum of three numbers or more depends on their order, and that on their place in a bucket. So the order of the first step is kept in
/// checkpoints, and a process that goes on has the same buckets from its first step on.
#[derive(Default)]
pub(crate) struct Overlapped {
    reducer: Option<Reducer>,
    /// The parameters that it knows, by name, as their gradients come.
    order: Arc<[String]>,
    /// Those that it does not know.
    rest: BTreeSet<String>,
    /// In a step that shows the order, at the lead.
    arrivals: Option<Arrivals>,
    is_under_way: bool,
}

impl GradientReducer for Overlapped {
    fn begin_last_pass(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        if let Some(reducer) = &mut self.reducer {
            ranks.joining(|| reducer.begin_pass())?;
            self.is_under_way = true;
        } else if ranks.is_lead() {
            self.arrivals = Some(Arrivals::watch(groups)?);
        }
        Ok(())
    }

    fn reduce(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        if let Some(reducer) = &mut self.reducer
            && std::mem::take(&mut self.is_under_way)
        {
            ranks.joining(|| reducer.end_pass())?;
            let rest = with_gradients(groups).filter(|(name, ..)| self.rest.contains(*name));
            return add_up(ranks, &rest.map(|(_, _, gradient)| gradient).collect::<Vec<_>>());
        }
        add_up(ranks, &gradients(groups))?;
        self.learn(ranks, groups)
    }

    fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    fn mind_stopped(&mut self, groups: &[ParamGroup]) {
        let left: BTreeSet<&str> = with_gradients(groups).map(|(name, ..)| name).collect();
        // A process that goes on after they have stopped follows an order without them, and keeps it.
        if self.order.iter().any(|name| !left.contains(name.as_str())) {
            *self = Overlapped::default();
        }
    }

    fn order(&self) -> Arc<[String]> {
        Arc::clone(&self.order)
    }

    fn follow_order(&mut self, ranks: &Ranks, groups: &[ParamGroup], order: &[String]) -> Result<()> {
        let mut others: BTreeMap<&str, &Tensor> = with_gradients(groups).map(|(name, leaf, _)| (name, leaf)).collect();
        let known: Option<Vec<Tensor>> =
            order.iter().map(|name| others.remove(name.as_str()).map(Tensor::shallow_clone)).collect();
        // Where the run trains other parameters now, the first step shows the order anew.
        if let Some(known) = known.filter(|known| !known.is_empty()) {
            self.reducer = ranks.together(|group| Reducer::new(group, &known).map(Some))?;
            self.rest = others.into_keys().map(str::to_owned).collect();
            self.order = order.into();
        }
        Ok(())
    }

    fn pass_without_examples(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        let leaves = groups.iter().flat_map(|group| &group.parameters).filter(|(_, leaf)| leaf.requires_grad());
        let backward = || {
            sdtrain_torch::catch(|| {
                let zeros = leaves.map(|(_, leaf)| (leaf * 0.0).sum(Kind::Float));
                if let Some(zero) = zeros.reduce(|sum, part| sum + part) {
                    zero.backward();
                }
            })
        };
        match self.is_under_way {
            true => ranks.joining(backward),
            false => backward().map_err(|error| ranks.explain(error)),
        }
    }
}

impl Overlapped {
    /// Makes the reducer for the parameters whose sums are not all zero: equal at all ranks.
    fn learn(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        let came = self.arrivals.take();
        let order = ranks.hear("order of gradients", || {
            let came = came.map(Arrivals::names).unwrap_or_default();
            let place: BTreeMap<&str, usize> =
                came.iter().enumerate().rev().map(|(place, name)| (name.as_str(), place)).collect();
            let mut reached = Vec::new();
            for (name, _, sum) in with_gradients(groups) {
                if sum.f_count_nonzero(None)?.f_int64_value(&[])? > 0 {
                    reached.push(name);
                }
            }
            // Those that came at other ranks alone follow: what is last in a model has its gradient first.
            reached.reverse();
            reached.sort_by_key(|name| place.get(name).copied().unwrap_or(usize::MAX));
            Ok(reached.join("\n"))
        })?;
        let order: Vec<String> = order.lines().map(str::to_owned).collect();
        self.follow_order(ranks, groups, &order)
    }
}

/// Whose gradients have come in a backward pass, while it lives.
struct Arrivals {
    names: Arc<Mutex<Vec<String>>>,
    _hooks: Vec<GradientHook>,
}

impl Arrivals {
    fn watch(groups: &[ParamGroup]) -> Result<Arrivals> {
        let names = Arc::default();
        let hook = |(name, leaf, _): (&str, &Tensor, Tensor)| {
            let (name, names): (_, Arc<Mutex<Vec<String>>>) = (name.to_owned(), Arc::clone(&names));
            GradientHook::new(leaf, move |_| {
                names.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
                Ok(())
            })
        };
        let hooks = with_gradients(groups).map(hook).collect::<sdtrain_torch::Result<_>>()?;
        Ok(Arrivals { names, _hooks: hooks })
    }

    /// As they came; one that came in several parts more than once.
    fn names(self) -> Vec<String> {
        std::mem::take(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Each rank gets the sums of its share, and zeros in the place of all others: ZeRO-1 (Rajbhandari et al. 2020, arXiv:1910.02054).
pub(crate) struct SharedOut {
    pub shares: Arc<Shares>,
}

impl GradientReducer for SharedOut {
    fn reduce(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        self.shares.scatter_sums(ranks, groups)
    }

    fn total_norm(&self, ranks: &Ranks, norm: Tensor) -> Result<Tensor> {
        let square = norm.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_square()?;
        ranks.add_up(&square)?;
        Ok(square.f_sqrt()?.f_to_kind(norm.kind())?.f_to_device(norm.device())?)
    }

    fn after_update(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        self.shares.gather_weights(ranks, groups)
    }

    fn is_shared_out(&self) -> bool {
        true
    }
}
