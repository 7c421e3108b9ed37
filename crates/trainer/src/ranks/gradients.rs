//! How the gradients of all ranks become one: added up at once, while the backward pass goes on, or each share at the rank that updates it.

use super::Ranks;
use super::shares::Shares;
use crate::error::Result;
use sdtrain_optimizer::{ParamGroup, gradients};
use sdtrain_torch::Reducer;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Numbers that are sent at once: 32 MiB of them.
const AT_ONCE: usize = 8 << 20;

/// Makes sums over all ranks of the gradients that each has accumulated; the losses are shares of the whole batch's mean, so that sums
/// are what one rank alone would have.
pub(crate) trait GradientReducer {
    /// Before the forward pass of the last part of a step, at every rank.
    fn begin_last_pass(&mut self, _ranks: &Ranks) -> Result<()> {
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

    /// Other parameters learn from here on than before.
    fn begin_anew(&mut self) {}

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

    /// Whether a run that is continued adds up in the order of one that was never stopped.
    fn continues_to_the_bit(&self, _ranks: &Ranks) -> bool {
        true
    }
}

/// One rank alone has the sum.
pub(crate) struct Alone;

impl GradientReducer for Alone {
    fn reduce(&mut self, _: &Ranks, _: &[ParamGroup]) -> Result<()> {
        Ok(())
    }
}

/// All gradients one behind the other, in fp32, after the backward pass.
pub(crate) struct Flat;

impl GradientReducer for Flat {
    fn reduce(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        add_up(ranks, &gradients(groups))
    }
}

/// Replaces each of `tensors` by its sum over all ranks.
fn add_up(ranks: &Ranks, tensors: &[Tensor]) -> Result<()> {
    let mut first = 0;
    while first < tensors.len() {
        let mut count = 0;
        let mut numbers = 0;
        while first + count < tensors.len() && (count == 0 || numbers + tensors[first + count].numel() <= AT_ONCE) {
            numbers += tensors[first + count].numel();
            count += 1;
        }
        let these = &tensors[first..first + count];
        let flat: Vec<Tensor> = these
            .iter()
            .map(|tensor| tensor.f_reshape([-1])?.f_to_device(ranks.buffer_device())?.f_to_kind(Kind::Float))
            .collect::<std::result::Result<_, _>>()?;
        let flat = Tensor::f_cat(&flat, 0)?;
        ranks.add_up(&flat)?;
        let mut start = 0;
        for tensor in these {
            let length = tensor.numel() as i64;
            tensor.shallow_clone().f_copy_(&flat.f_narrow(0, start, length)?.f_reshape(tensor.size())?)?;
            start += length;
        }
        first += count;
    }
    Ok(())
}

/// In buckets while the backward pass goes on: DistributedDataParallel's way. Which parameters a backward pass reaches, the first step
/// shows; the others, and all that changes later, go the flat way.
#[derive(Default)]
pub(crate) struct Overlapped {
    reducer: Option<Reducer>,
    /// Parameters that it does not know, by their place among the gradients.
    rest: Vec<usize>,
    is_under_way: bool,
}

impl GradientReducer for Overlapped {
    fn begin_last_pass(&mut self, ranks: &Ranks) -> Result<()> {
        if let Some(reducer) = &mut self.reducer {
            // The first one sends the order of the buckets.
            ranks.joins();
            reducer.begin_pass().map_err(|error| ranks.explain(error))?;
            ranks.works();
            self.is_under_way = true;
        }
        Ok(())
    }

    fn reduce(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        let own = gradients(groups);
        if let Some(reducer) = &mut self.reducer
            && std::mem::take(&mut self.is_under_way)
        {
            ranks.joins();
            reducer.end_pass().map_err(|error| ranks.explain(error))?;
            ranks.works();
            let rest: Vec<Tensor> = self.rest.iter().map(|&place| own[place].shallow_clone()).collect();
            return add_up(ranks, &rest);
        }
        add_up(ranks, &own)?;
        self.learn(ranks, groups, &own)
    }

    fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    fn begin_anew(&mut self) {
        *self = Overlapped::default();
    }

    /// The first steps of a process have other buckets than later ones, and the order in which three numbers or more are added up
    /// follows their place in a bucket.
    fn continues_to_the_bit(&self, ranks: &Ranks) -> bool {
        ranks.size() <= 2
    }

    fn pass_without_examples(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        let leaves = groups.iter().flat_map(|group| &group.parameters).filter(|(_, leaf)| leaf.requires_grad());
        if self.is_under_way {
            ranks.joins();
        }
        let result = sdtrain_torch::catch(|| {
            let zeros = leaves.map(|(_, leaf)| (leaf * 0.0).sum(Kind::Float));
            if let Some(zero) = zeros.reduce(|sum, part| sum + part) {
                zero.backward();
            }
        });
        result.map_err(|error| ranks.explain(error))?;
        if self.is_under_way {
            ranks.works();
        }
        Ok(())
    }
}

impl Overlapped {
    /// Makes the reducer for the parameters whose sums are not all zero: equal at all ranks.
    fn learn(&mut self, ranks: &Ranks, groups: &[ParamGroup], own: &[Tensor]) -> Result<()> {
        let trained = groups.iter().flat_map(|group| &group.parameters).map(|(_, leaf)| leaf);
        let leaves = trained.filter(|leaf| leaf.requires_grad() && leaf.grad().defined());
        let mut reached = Vec::new();
        self.rest.clear();
        for (place, (leaf, sum)) in leaves.zip(own).enumerate() {
            match sum.f_count_nonzero(None)?.f_int64_value(&[])? > 0 {
                true => reached.push(leaf.shallow_clone()),
                false => self.rest.push(place),
            }
        }
        if !reached.is_empty() {
            self.reducer = ranks.together(|group| Reducer::new(group, &reached).map(Some))?;
        }
        Ok(())
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
