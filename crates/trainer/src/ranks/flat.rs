//! Gradients one behind the other, in fp32, added up after the backward pass.

use super::{GradientReducer, Ranks};
use crate::error::Result;
use sdtrain_optimizer::{ParamGroup, gradients};
use tch::{Kind, Tensor};

/// Numbers that are sent at once: 32 MiB of them.
const AT_ONCE: usize = 8 << 20;

/// All gradients in a few sums. From the first step on they are views of what is sent, so that nothing is copied there and back.
#[derive(Default)]
pub(crate) struct Flat {
    // None for gradients that cannot be views: those are joined anew in each step.
    pieces: Vec<Option<Tensor>>,
}

impl GradientReducer for Flat {
    fn reduce(&mut self, ranks: &Ranks, groups: &[ParamGroup]) -> Result<()> {
        let gradients = gradients(groups);
        let mut earlier = std::mem::take(&mut self.pieces).into_iter();
        for these in pieces(&gradients) {
            let piece = match earlier.next().flatten().filter(|piece| consists_of(piece, these)) {
                Some(piece) => {
                    ranks.add_up(&piece)?;
                    Some(piece)
                }
                // In the first step, where some have ceased to learn, and always where they are of another kind or place.
                None => {
                    let piece = joined(ranks, these)?;
                    ranks.add_up(&piece)?;
                    become_views(these, &piece)?;
                    consists_of(&piece, these).then_some(piece)
                }
            };
            self.pieces.push(piece);
        }
        Ok(())
    }
}

/// Replaces each of `tensors` by its sum over all ranks, where it lies.
pub(super) fn add_up(ranks: &Ranks, tensors: &[Tensor]) -> Result<()> {
    for these in pieces(tensors) {
        let piece = joined(ranks, these)?;
        ranks.add_up(&piece)?;
        for (tensor, sum) in these.iter().zip(parts(&piece, these)?) {
            tensor.shallow_clone().f_copy_(&sum)?;
        }
    }
    Ok(())
}

/// What is sent at once, at least one of them.
fn pieces(tensors: &[Tensor]) -> Vec<&[Tensor]> {
    let mut pieces = Vec::new();
    let mut rest = tensors;
    while !rest.is_empty() {
        let ends = rest.iter().scan(0, |numbers, tensor| {
            *numbers += tensor.numel();
            Some(*numbers)
        });
        let count = ends.take_while(|&end| end <= AT_ONCE).count().max(1);
        let (these, others) = rest.split_at(count);
        pieces.push(these);
        rest = others;
    }
    pieces
}

/// One behind the other, where they can travel.
fn joined(ranks: &Ranks, tensors: &[Tensor]) -> Result<Tensor> {
    let flat = |tensor: &Tensor| tensor.f_reshape([-1])?.f_to_device(ranks.buffer_device())?.f_to_kind(Kind::Float);
    let flat: Vec<Tensor> = tensors.iter().map(flat).collect::<std::result::Result<_, _>>()?;
    Ok(Tensor::f_cat(&flat, 0)?)
}

/// The parts of `piece` that are `tensors`, in their shapes.
fn parts(piece: &Tensor, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    let lengths: Vec<i64> = tensors.iter().map(|tensor| tensor.numel() as i64).collect();
    let parts = piece.f_split_with_sizes(lengths, 0)?;
    Ok(parts.iter().zip(tensors).map(|(part, tensor)| part.f_view_as(tensor)).collect::<std::result::Result<_, _>>()?)
}

/// Gives each of `tensors` its part of `piece`: that memory where it can, else those numbers.
fn become_views(tensors: &[Tensor], piece: &Tensor) -> Result<()> {
    for (tensor, part) in tensors.iter().zip(parts(piece, tensors)?) {
        let mut tensor = tensor.shallow_clone();
        if (tensor.kind(), tensor.device()) == (piece.kind(), piece.device()) && tensor.is_contiguous() {
            tensor.f_set_data(&part)?;
        } else {
            tensor.f_copy_(&part)?;
        }
    }
    Ok(())
}

/// Whether the memory of `piece` is that of `tensors`, of all of them in their order and of nothing else.
fn consists_of(piece: &Tensor, tensors: &[Tensor]) -> bool {
    let size = Kind::Float.elt_size_in_bytes();
    let (begin, end) = (piece.data_ptr().addr(), piece.data_ptr().addr() + piece.numel() * size);
    let mut place = begin;
    let are_in_a_row = tensors.iter().all(|tensor| {
        let is_next = tensor.data_ptr().addr() == place;
        place += tensor.numel() * size;
        is_next
    });
    are_in_a_row && place == end
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn numbers(count: i64, first: f64) -> Tensor {
        Tensor::arange(count, (Kind::Float, Device::Cpu)) + first
    }

    #[test]
    fn tensors_become_views_of_what_they_were_joined_to() {
        let ranks = Ranks::alone();
        let tensors = [numbers(6, 0.0).reshape([2, 3]), numbers(1, 6.0), numbers(4, 7.0)];
        let piece = joined(&ranks, &tensors).expect("fits");
        assert!(!consists_of(&piece, &tensors));
        become_views(&tensors, &piece).expect("fits");
        assert!(consists_of(&piece, &tensors));
        let _ = piece.shallow_clone().g_add_scalar_(1.0);
        assert_eq!(tensors[0], numbers(6, 1.0).reshape([2, 3]));
        assert_eq!(tensors[2], numbers(4, 8.0));

        assert!(!consists_of(&piece, &tensors[..2]), "one has gone");
        let [first, second, third] = &tensors;
        let exchanged = [second, first, third].map(Tensor::shallow_clone);
        assert!(!consists_of(&piece, &exchanged), "another order");
        let replaced = [first.shallow_clone(), second.copy(), third.shallow_clone()];
        assert!(!consists_of(&piece, &replaced), "one is another");
    }

    #[test]
    fn tensors_of_another_kind_keep_their_memory_and_get_the_numbers() {
        let ranks = Ranks::alone();
        let tensors = [numbers(3, 0.0), numbers(2, 3.0).to_kind(Kind::BFloat16)];
        let piece = joined(&ranks, &tensors).expect("fits");
        let _ = piece.shallow_clone().g_add_scalar_(1.0);
        become_views(&tensors, &piece).expect("fits");
        assert!(!consists_of(&piece, &tensors));
        assert_eq!(tensors[1], numbers(2, 4.0).to_kind(Kind::BFloat16));
    }

    #[test]
    fn what_is_sent_at_once_has_a_limit() {
        // One number, as often as asked: no memory.
        let tensor = |numbers: usize| Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand([numbers as i64], false);
        let lengths = |numbers: &[usize]| {
            let tensors: Vec<Tensor> = numbers.iter().map(|&numbers| tensor(numbers)).collect();
            pieces(&tensors).iter().map(|piece| piece.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[AT_ONCE - 1, 1, 1]), [2, 1]);
        assert_eq!(lengths(&[AT_ONCE + 1, 1, 2 * AT_ONCE]), [1, 1, 1]);
        assert!(lengths(&[]).is_empty());
    }
}
