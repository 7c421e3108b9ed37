//! Which rank updates which weights where the optimizer is shared out, and how sums and weights travel.

use super::Ranks;
use crate::error::Result;
use sdtrain_optimizer::ParamGroup;
use std::ops::Range;
use tch::{Kind, Tensor};

/// Numbers of each rank that are sent at once: 8 MiB of them.
const AT_ONCE: usize = 2 << 20;

/// The weights of each rank: whole tensors, so that every optimizer sees what it would see alone.
#[derive(Debug)]
pub(crate) struct Shares {
    /// Places of the tensors among all groups' parameters, by rank.
    owned: Vec<Vec<usize>>,
    /// Numbers of each tensor.
    sizes: Vec<usize>,
}

impl Shares {
    /// Shares out tensors of so many numbers each: the largest first, each to the rank that has least.
    pub fn of(sizes: Vec<usize>, ranks: usize) -> Shares {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&place| (std::cmp::Reverse(sizes[place]), place));
        let mut owned = vec![Vec::new(); ranks];
        let mut loads = vec![0; ranks];
        for place in order {
            let least = (0..ranks).min_by_key(|&rank| (loads[rank], rank)).unwrap_or(0);
            owned[least].push(place);
            loads[least] += sizes[place];
        }
        owned.iter_mut().for_each(|places| places.sort());
        Shares { owned, sizes }
    }

    /// Those of the parameters of `groups`.
    pub fn of_groups(groups: &[ParamGroup], ranks: usize) -> Shares {
        let parameters = groups.iter().flat_map(|group| &group.parameters);
        Shares::of(parameters.map(|(_, tensor)| tensor.numel()).collect(), ranks)
    }

    /// The groups with the parameters of `rank` alone, as many as there are.
    pub fn groups_of(&self, rank: usize, groups: &[ParamGroup]) -> Vec<ParamGroup> {
        let mut place = 0;
        let mut own = |group: &ParamGroup| {
            let parameters = group.parameters.iter().filter_map(|(name, tensor)| {
                let is_own = self.owned[rank].binary_search(&place).is_ok();
                place += 1;
                is_own.then(|| (name.clone(), tensor.shallow_clone()))
            });
            ParamGroup {
                name: group.name.clone(),
                learning_rate: group.learning_rate,
                parameters: parameters.collect(),
            }
        };
        groups.iter().map(&mut own).collect()
    }

    fn length_of(&self, rank: usize) -> usize {
        self.owned[rank].iter().map(|&place| self.sizes[place]).sum()
    }

    /// The windows that are sent one after the other: numbers of each rank's share.
    fn windows(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let longest = (0..self.owned.len()).map(|rank| self.length_of(rank)).max().unwrap_or(0);
        (0..longest).step_by(AT_ONCE).map(move |start| start..(start + AT_ONCE).min(longest))
    }

    /// The pieces of `rank`'s tensors in a window of its share: which tensor, which of its numbers, and where in the window.
    fn pieces(&self, rank: usize, window: &Range<usize>) -> Vec<(usize, Range<usize>, usize)> {
        let mut pieces = Vec::new();
        let mut begins = 0;
        for &place in &self.owned[rank] {
            let (from, to) = (window.start.max(begins), window.end.min(begins + self.sizes[place]));
            if from < to {
                pieces.push((place, from - begins..to - begins, from - window.start));
            }
            begins += self.sizes[place];
        }
        pieces
    }

    /// Leaves each rank with the sums over all ranks of the gradients of its share, and with zeros elsewhere.
    pub fn scatter_sums(&self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        let flat: Vec<Option<Tensor>> = groups
            .iter()
            .flat_map(|group| &group.parameters)
            .map(|(_, leaf)| leaf.grad())
            .map(|gradient| gradient.defined().then(|| gradient.f_view([-1])).transpose())
            .collect::<std::result::Result<_, _>>()?;
        for window in self.windows() {
            let length = window.len() as i64;
            let all = Tensor::f_zeros([ranks.size() as i64 * length], (Kind::Float, ranks.buffer_device()))?;
            for rank in 0..ranks.size() {
                for (place, numbers, at) in self.pieces(rank, &window) {
                    if let Some(gradient) = &flat[place] {
                        slice(&all, rank as i64 * length + at as i64, &numbers)?.f_copy_(&part(gradient, &numbers)?)?;
                    }
                }
            }
            let own = Tensor::f_zeros([length], (Kind::Float, ranks.buffer_device()))?;
            ranks.together(|group| group.reduce_scatter(&own, &all))?;
            for rank in 0..ranks.size() {
                for (place, numbers, at) in self.pieces(rank, &window) {
                    let Some(gradient) = &flat[place] else { continue };
                    let mut target = part(gradient, &numbers)?;
                    match rank == ranks.rank() {
                        true => target.f_copy_(&slice(&own, at as i64, &numbers)?)?,
                        false => drop(target.f_zero_()?),
                    };
                }
            }
        }
        Ok(())
    }

    /// Gives every rank the weights that each has updated.
    pub fn gather_weights(&self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        let weights = groups.iter().flat_map(|group| &group.parameters).map(|(_, leaf)| leaf.detach().f_view([-1]));
        let flat: Vec<Tensor> = weights.collect::<std::result::Result<_, _>>()?;
        for window in self.windows() {
            let length = window.len() as i64;
            let own = Tensor::f_zeros([length], (Kind::Float, ranks.buffer_device()))?;
            for (place, numbers, at) in self.pieces(ranks.rank(), &window) {
                slice(&own, at as i64, &numbers)?.f_copy_(&part(&flat[place], &numbers)?)?;
            }
            let all = Tensor::f_zeros([ranks.size() as i64 * length], (Kind::Float, ranks.buffer_device()))?;
            ranks.together(|group| group.all_gather(&all, &own))?;
            for rank in (0..ranks.size()).filter(|&rank| rank != ranks.rank()) {
                for (place, numbers, at) in self.pieces(rank, &window) {
                    part(&flat[place], &numbers)?.f_copy_(&slice(&all, rank as i64 * length + at as i64, &numbers)?)?;
                }
            }
        }
        Ok(())
    }
}

/// As many numbers of a flat tensor as `numbers` are, from `start` on: a view.
fn slice(flat: &Tensor, start: i64, numbers: &Range<usize>) -> std::result::Result<Tensor, tch::TchError> {
    flat.f_narrow(0, start, numbers.len() as i64)
}

/// These numbers of a flat tensor: a view.
fn part(flat: &Tensor, numbers: &Range<usize>) -> std::result::Result<Tensor, tch::TchError> {
    slice(flat, numbers.start as i64, numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_about_even_and_their_windows_cover_them_once() {
        let sizes = vec![5, 3_000_000, 1, 2_500_000, 700_000, 0, 9];
        let shares = Shares::of(sizes.clone(), 3);
        let mut all: Vec<usize> = (0..3).flat_map(|rank| shares.owned[rank].clone()).collect();
        all.sort();
        assert_eq!(all, (0..sizes.len()).collect::<Vec<_>>());
        assert_eq!((0..3).map(|rank| shares.length_of(rank)).collect::<Vec<_>>(), [3_000_000, 2_500_000, 700_015]);
        for rank in 0..3 {
            let mut seen = vec![0; sizes.len()];
            for window in shares.windows() {
                for (place, numbers, at) in shares.pieces(rank, &window) {
                    assert_eq!(seen[place], numbers.start, "in order, and none twice");
                    assert!(at + numbers.len() <= window.len());
                    seen[place] = numbers.end;
                }
            }
            for &place in &shares.owned[rank] {
                assert_eq!(seen[place], sizes[place]);
            }
        }
    }
}
