//! Which examples make which batch of an epoch: a pure function of the seed and the epoch.

mod balance;
mod ranks;
mod repeats;
#[cfg(test)]
mod tests;

use sdtrain_random::{Purpose, Stream, permutation};
use sdtrain_recipe::Leftovers;

pub(crate) use balance::repeats_of_images;
pub use ranks::Rank;
pub(crate) use repeats::Repeats;
use repeats::Turn;

use crate::batch::{BatchPlan, Visit};
use crate::buckets::Size;

/// Keys of the streams that order the batches, and that give the images of a subset their turns; the order of the examples
/// has its own.
const BATCHES: u64 = u64::MAX - 1;
const TURNS: u64 = u64::MAX - 2;

/// Images of one size and one group; batches never mix buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Which group of subsets that are sized and batched alike.
    pub group: usize,
    pub size: Size,
    /// Examples of a full batch, those of all ranks together.
    pub batch_size: usize,
}

/// What the order needs to know of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrderedImage {
    pub bucket: usize,
    pub subset: usize,
    pub repeats: Repeats,
}

/// The order of every epoch.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    seed: u64,
    leftovers: Leftovers,
    buckets: Vec<Bucket>,
    images: Vec<OrderedImage>,
    /// The turn of each image among those of its subset.
    turns: Vec<Turn>,
    /// Images whose repeats are not whole.
    fractional: Vec<usize>,
    /// Visits of each bucket that every epoch has.
    always: Vec<u64>,
}

impl Order {
    pub(crate) fn new(seed: u64, leftovers: Leftovers, buckets: Vec<Bucket>, images: Vec<OrderedImage>) -> Self {
        let mut always = vec![0; buckets.len()];
        for image in &images {
            always[image.bucket] += image.repeats.in_every_epoch();
        }
        let fractional = (0..images.len()).filter(|&image| !images[image].repeats.is_whole()).collect();
        let mut order = Self { seed, leftovers, buckets, turns: Vec::new(), images, fractional, always };
        order.turns = order.turns();
        order
    }

    /// The same order with batches that are so many times as large.
    pub(crate) fn with_larger_batches(mut self, times: usize) -> Self {
        for bucket in &mut self.buckets {
            bucket.batch_size = bucket.batch_size.saturating_mul(times);
        }
        self
    }

    fn turns(&self) -> Vec<Turn> {
        let mut of_subset: Vec<Vec<usize>> = Vec::new();
        for &image in &self.fractional {
            let subset = self.images[image].subset;
            of_subset.resize(of_subset.len().max(subset + 1), Vec::new());
            of_subset[subset].push(image);
        }
        let mut turns = vec![Turn::default(); self.images.len()];
        for (subset, mut images) in of_subset.into_iter().enumerate() {
            Stream::new(self.seed, Purpose::Order, subset as u64, TURNS).shuffle(&mut images);
            let of = images.len() as u64;
            for (rank, image) in (0..).zip(images) {
                turns[image] = Turn { rank, of };
            }
        }
        turns
    }

    pub(crate) fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    pub(crate) fn images(&self) -> &[OrderedImage] {
        &self.images
    }

    /// Visits of each bucket in all epochs before this one.
    fn visits_before(&self, epoch: u64) -> Vec<u64> {
        let mut visits: Vec<u64> = self.always.iter().map(|always| epoch.saturating_mul(*always)).collect();
        for &image in &self.fractional {
            let OrderedImage { bucket, repeats, .. } = self.images[image];
            let before = repeats.visits_before(self.turns[image], epoch);
            visits[bucket] += before - epoch * repeats.in_every_epoch();
        }
        visits
    }

    /// Visits of each bucket in one epoch, those that `leftovers` leaves out or lets wait included.
    pub(crate) fn visits_by_bucket(&self, epoch: u64) -> Vec<usize> {
        let counts = self.visits_before(epoch + 1).into_iter().zip(self.visits_before(epoch));
        counts.map(|(after, before)| (after - before) as usize).collect()
    }

    /// Batches of each bucket in one epoch.
    pub(crate) fn batches_by_bucket(&self, epoch: u64) -> Vec<usize> {
        let counts = self.visits_before(epoch).into_iter().zip(self.visits_before(epoch + 1));
        let batches = counts.zip(&self.buckets).map(|((before, after), bucket)| {
            let size = bucket.batch_size as u64;
            match self.leftovers {
                Leftovers::ShortBatch => (after - before).div_ceil(size),
                Leftovers::Drop => (after - before) / size,
                // The row of all epochs is cut into batches; one belongs to the epoch that completes it.
                Leftovers::Carry => after / size - before / size,
            }
        });
        batches.map(|batches| batches as usize).collect()
    }

    /// Batches of one epoch.
    pub(crate) fn batches(&self, epoch: u64) -> usize {
        self.batches_by_bucket(epoch).into_iter().sum()
    }

    /// Whether every epoch has the same number of visits and of batches.
    pub(crate) fn is_the_same_length_every_epoch(&self) -> bool {
        let carries = self.leftovers == Leftovers::Carry;
        let is_filled = |(visits, bucket): (&u64, &Bucket)| visits.is_multiple_of(bucket.batch_size as u64);
        self.fractional.is_empty() && (!carries || self.always.iter().zip(&self.buckets).all(is_filled))
    }

    /// Visits of the first epoch that its batches do not hold: those of `leftovers = "drop"` and `"carry"`.
    pub(crate) fn left_over(&self) -> usize {
        let full = self.batches_by_bucket(0).into_iter().zip(&self.buckets);
        let held: usize = full.map(|(batches, bucket)| batches * bucket.batch_size).sum();
        let visits: usize = self.visits_by_bucket(0).into_iter().sum();
        visits.saturating_sub(held)
    }

    /// The batches of one epoch: visits permuted, dealt into their buckets, cut into batches, batches permuted.
    pub(crate) fn epoch(&self, epoch: u64) -> Vec<BatchPlan> {
        let mut rows = self.rows(epoch);
        if self.leftovers == Leftovers::Carry {
            for (row, carried) in rows.iter_mut().zip(self.carried_into(epoch)) {
                row.splice(0..0, carried);
            }
        }
        let mut plans = Vec::new();
        for ((visits, bucket), batches) in rows.iter().zip(&self.buckets).zip(self.batches_by_bucket(epoch)) {
            for batch in visits.chunks(bucket.batch_size).take(batches) {
                plans.push(BatchPlan { number: 0, size: bucket.size, visits: batch.to_vec(), whole: batch.len() });
            }
        }
        Stream::new(self.seed, Purpose::Order, epoch, BATCHES).shuffle(&mut plans);
        for (number, plan) in plans.iter_mut().enumerate() {
            plan.number = number;
        }
        plans
    }

    /// The visits that are due in an epoch, in order, each in the row of its bucket.
    fn rows(&self, epoch: u64) -> Vec<Vec<Visit>> {
        let counts: Vec<u64> = (self.images.iter().zip(&self.turns))
            .map(|(image, turn)| match image.repeats.is_whole() {
                true => image.repeats.in_every_epoch(),
                false => image.repeats.visits_in(*turn, epoch),
            })
            .collect();
        let most = counts.iter().copied().max().unwrap_or(0) as usize;
        let mut visits = Vec::with_capacity(counts.iter().sum::<u64>() as usize);
        for repeat in 0..most {
            for (image, &count) in counts.iter().enumerate() {
                if repeat < count as usize {
                    visits.push(Visit { image, repeat, epochs_ago: 0 });
                }
            }
        }
        let mut rows = vec![Vec::new(); self.buckets.len()];
        for index in permutation(visits.len(), self.seed, Purpose::Order, epoch) {
            let visit = visits[index];
            rows[self.images[visit.image].bucket].push(visit);
        }
        rows
    }

    /// The visits of earlier epochs that filled no batch before this one: the end of each bucket's row, less than a batch.
    fn carried_into(&self, epoch: u64) -> Vec<Vec<Visit>> {
        let counts = self.visits_before(epoch).into_iter().zip(&self.buckets);
        let mut missing: Vec<usize> =
            counts.map(|(before, bucket)| (before % bucket.batch_size as u64) as usize).collect();
        let mut carried = vec![Vec::new(); self.buckets.len()];
        let mut earlier = epoch;
        while missing.iter().any(|&missing| missing > 0) && earlier > 0 {
            earlier -= 1;
            for ((row, missing), carried) in self.rows(earlier).into_iter().zip(&mut missing).zip(&mut carried) {
                let from = row.len().saturating_sub(*missing);
                *missing -= row.len() - from;
                let waiting = row[from..].iter().map(|visit| Visit { epochs_ago: epoch - earlier, ..*visit });
                carried.splice(0..0, waiting.collect::<Vec<_>>());
            }
        }
        carried
    }
}
