//! The order of `n` things in one epoch.

use crate::{Purpose, Stream};

/// A uniformly random order of `0..n`, the same for the same seed, purpose and epoch.
pub fn permutation(n: usize, seed: u64, purpose: Purpose, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    // No example has this index, so the order shares no key with any single example's stream.
    Stream::new(seed, purpose, epoch, u64::MAX).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_every_index_once() {
        for n in [0, 1, 2, 3, 10, 257] {
            let mut order = permutation(n, 1, Purpose::Order, 0);
            order.sort_unstable();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn is_the_golden_one() {
        assert_eq!(permutation(8, 42, Purpose::Order, 0), [7, 5, 3, 1, 4, 2, 0, 6]);
        assert_eq!(permutation(8, 42, Purpose::Order, 1), [0, 1, 7, 4, 6, 3, 2, 5]);
    }
}
