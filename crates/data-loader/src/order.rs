//! Which examples make which batch of an epoch: a pure function of the seed and the epoch.

use sdtrain_random::{Purpose, Stream, permutation};
use sdtrain_recipe::Leftovers;

use crate::batch::{BatchPlan, Visit};
use crate::buckets::Size;

/// Key of the stream that orders the batches; the order of the examples has its own.
const BATCHES: u64 = u64::MAX - 1;

/// The order of every epoch.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    seed: u64,
    batch_size: usize,
    leftovers: Leftovers,
    /// Size of each bucket.
    buckets: Vec<Size>,
    /// Every visit of an epoch with its bucket, by rising index.
    visits: Vec<(Visit, usize)>,
}

impl Order {
    /// `images`: bucket and repeats of every image.
    pub(crate) fn new(
        seed: u64,
        batch_size: usize,
        leftovers: Leftovers,
        buckets: Vec<Size>,
        images: &[(usize, usize)],
    ) -> Self {
        let most_repeats = images.iter().map(|&(_, repeats)| repeats).max().unwrap_or(0);
        let mut visits = Vec::with_capacity(images.iter().map(|&(_, repeats)| repeats).sum());
        for repeat in 0..most_repeats {
            for (image, &(bucket, repeats)) in images.iter().enumerate() {
                if repeat < repeats {
                    visits.push((Visit { image, repeat }, bucket));
                }
            }
        }
        Self { seed, batch_size: batch_size.max(1), leftovers, buckets, visits }
    }

    /// Visits of an epoch, those that `leftovers = "drop"` leaves out included.
    pub(crate) fn visits(&self) -> usize {
        self.visits.len()
    }

    /// Visits in each bucket.
    pub(crate) fn visits_by_bucket(&self) -> Vec<usize> {
        let mut counts = vec![0; self.buckets.len()];
        for &(_, bucket) in &self.visits {
            counts[bucket] += 1;
        }
        counts
    }

    /// Batches of a bucket that holds so many visits.
    pub(crate) fn batches_of(&self, visits: usize) -> usize {
        match self.leftovers {
            Leftovers::ShortBatch => visits.div_ceil(self.batch_size),
            Leftovers::Drop => visits / self.batch_size,
        }
    }

    /// Batches of an epoch; every epoch has as many.
    pub(crate) fn batches(&self) -> usize {
        self.visits_by_bucket().into_iter().map(|visits| self.batches_of(visits)).sum()
    }

    /// The batches of one epoch: visits permuted, dealt into their buckets, cut into batches, batches permuted.
    pub(crate) fn epoch(&self, epoch: u64) -> Vec<BatchPlan> {
        let mut by_bucket = vec![Vec::new(); self.buckets.len()];
        for index in permutation(self.visits.len(), self.seed, Purpose::Order, epoch) {
            let (visit, bucket) = self.visits[index];
            by_bucket[bucket].push(visit);
        }
        let mut plans = Vec::with_capacity(self.batches());
        for (visits, &size) in by_bucket.iter().zip(&self.buckets) {
            for batch in visits.chunks(self.batch_size).take(self.batches_of(visits.len())) {
                plans.push(BatchPlan { number: 0, size, visits: batch.to_vec() });
            }
        }
        Stream::new(self.seed, Purpose::Order, epoch, BATCHES).shuffle(&mut plans);
        for (number, plan) in plans.iter_mut().enumerate() {
            plan.number = number;
        }
        plans
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// 10 images, of which 3 are wide; the first is repeated three times.
    fn order(batch_size: usize, leftovers: Leftovers) -> Order {
        let images: Vec<(usize, usize)> =
            (0..10).map(|image| (usize::from(image >= 7), if image == 0 { 3 } else { 1 })).collect();
        Order::new(42, batch_size, leftovers, vec![(64, 64), (96, 64)], &images)
    }

    fn counts(plans: &[BatchPlan]) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for visit in plans.iter().flat_map(|plan| &plan.visits) {
            *counts.entry(visit.image).or_default() += 1;
        }
        counts
    }

    #[test]
    fn every_image_is_seen_as_often_as_it_repeats() {
        for batch_size in 1..14 {
            let order = order(batch_size, Leftovers::ShortBatch);
            for epoch in 0..5 {
                let plans = order.epoch(epoch);
                let counts = counts(&plans);
                assert_eq!(counts.len(), 10);
                assert!(counts.iter().all(|(&image, &n)| n == if image == 0 { 3 } else { 1 }));
                let distinct: BTreeSet<(usize, usize)> =
                    plans.iter().flat_map(|p| &p.visits).map(|v| (v.image, v.repeat)).collect();
                assert_eq!(distinct.len(), 12);
            }
        }
    }

    #[test]
    fn a_batch_is_of_one_bucket_and_never_longer_than_asked() {
        let order = order(4, Leftovers::ShortBatch);
        for plan in order.epoch(3) {
            assert!(!plan.visits.is_empty() && plan.visits.len() <= 4);
            let wide = plan.size == (96, 64);
            assert!(plan.visits.iter().all(|visit| (visit.image >= 7) == wide));
        }
    }

    #[test]
    fn leftovers_make_a_short_batch_or_wait() {
        // 9 visits in one bucket, 3 in the other.
        assert_eq!(order(4, Leftovers::ShortBatch).batches(), 3 + 1);
        assert_eq!(order(4, Leftovers::Drop).batches(), 2);
        assert_eq!(order(9, Leftovers::Drop).batches(), 1);
        for leftovers in [Leftovers::ShortBatch, Leftovers::Drop] {
            for batch_size in 1..14 {
                let order = order(batch_size, leftovers);
                assert_eq!(order.epoch(0).len(), order.batches());
            }
        }
        assert!(order(4, Leftovers::Drop).epoch(1).iter().all(|plan| plan.visits.len() == 4));
    }

    #[test]
    fn those_left_out_change_from_epoch_to_epoch() {
        let order = order(2, Leftovers::Drop);
        let seen: BTreeSet<usize> = (0..20).flat_map(|epoch| counts(&order.epoch(epoch)).into_keys()).collect();
        assert_eq!(seen.len(), 10);
        assert!(counts(&order.epoch(0)).len() < 10);
    }

    #[test]
    fn is_the_golden_order() {
        let shown: Vec<Vec<usize>> = order(4, Leftovers::ShortBatch)
            .epoch(1)
            .iter()
            .map(|plan| plan.visits.iter().map(|visit| visit.image).collect())
            .collect();
        assert_eq!(shown, [vec![9, 8, 7], vec![3, 0, 5, 6], vec![1, 0, 2, 0], vec![4]]);
    }

    #[test]
    fn seeds_and_epochs_have_orders_of_their_own() {
        let order = order(3, Leftovers::ShortBatch);
        assert_eq!(order.epoch(5), order.epoch(5));
        assert_ne!(order.epoch(5), order.epoch(6));
        let other = Order { seed: 43, ..order.clone() };
        assert_ne!(order.epoch(5), other.epoch(5));
    }
}
