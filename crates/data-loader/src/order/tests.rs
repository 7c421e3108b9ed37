//! What holds for every order: nothing lost, nothing doubled, whatever sizes, leftovers and ranks.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// 10 images, of which 3 are wide; the first is repeated three times.
fn order(batch_size: usize, leftovers: Leftovers) -> Order {
    let repeats = |image: usize| Repeats::whole(if image == 0 { 3 } else { 1 });
    let images = (0..10).map(|image| OrderedImage {
        bucket: usize::from(image >= 7),
        subset: usize::from(image != 0),
        repeats: repeats(image),
    });
    let buckets = [(64, 64), (96, 64)].map(|size| Bucket { group: 0, size, batch_size });
    Order::new(42, leftovers, buckets.to_vec(), images.collect())
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
fn leftovers_make_a_short_batch_wait_or_are_dropped() {
    // 9 visits in one bucket, 3 in the other.
    assert_eq!(order(4, Leftovers::ShortBatch).batches(0), 3 + 1);
    assert_eq!(order(4, Leftovers::Drop).batches(0), 2);
    assert_eq!(order(9, Leftovers::Drop).batches(0), 1);
    let carried: Vec<usize> = (0..5).map(|epoch| order(4, Leftovers::Carry).batches(epoch)).collect();
    assert_eq!(carried, [2, 2 + 1, 2 + 1, 3 + 1, 2]);
    assert_eq!(order(4, Leftovers::Carry).left_over(), 1 + 3);
    assert_eq!((order(4, Leftovers::Drop).left_over(), order(4, Leftovers::ShortBatch).left_over()), (4, 0));
    assert!(order(3, Leftovers::Carry).is_the_same_length_every_epoch());
    assert!(!order(4, Leftovers::Carry).is_the_same_length_every_epoch());
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

#[test]
fn carried_visits_come_first_in_the_next_epoch_with_the_draws_of_their_own() {
    let order = order(4, Leftovers::Carry);
    let waited: Vec<Vec<u64>> = (0..4)
        .map(|epoch| {
            let plans = order.epoch(epoch);
            plans.iter().flat_map(|plan| &plan.visits).map(|visit| visit.epochs_ago).filter(|&ago| ago > 0).collect()
        })
        .collect();
    // 9 visits and 3: the ones, twos and threes left of either row; of the small bucket the third epoch's are two thirds old.
    assert_eq!(waited.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1 + 3, 2 + 2, 3 + 1]);
    assert!(waited.iter().flatten().all(|&ago| ago == 1));
    let large = super::tests::order(9, Leftovers::Carry);
    let ago: BTreeSet<u64> =
        large.epoch(2).iter().flat_map(|plan| &plan.visits).map(|visit| visit.epochs_ago).collect();
    assert_eq!(ago, BTreeSet::from([0, 1, 2]));
}

/// Repeats, as a fraction that comes round after `period` epochs.
#[derive(Clone, Debug)]
struct Share {
    whole: u64,
    tenths: u64,
}

/// Any data set: subsets with their repeats, images with bucket and subset, batch sizes of the buckets, which are of two groups.
fn orders() -> impl Strategy<Value = (Vec<Share>, Order)> {
    let leftovers = prop_oneof![Just(Leftovers::ShortBatch), Just(Leftovers::Carry), Just(Leftovers::Drop)];
    let share = (0u64..3, 0u64..10).prop_filter("nothing", |(whole, tenths)| whole + tenths > 0);
    let shares = prop::collection::vec(share.prop_map(|(whole, tenths)| Share { whole, tenths }), 1..4);
    let sizes = prop::collection::vec(1usize..9, 1..5);
    let images = prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..40);
    (any::<u64>(), leftovers, shares, sizes, images).prop_map(|(seed, leftovers, shares, sizes, images)| {
        let bucket = |(number, &batch_size): (usize, &usize)| Bucket {
            group: number / 2,
            size: (64 + number / 2, 64),
            batch_size,
        };
        let images = images.iter().map(|(bucket, subset)| {
            let subset = subset.index(shares.len());
            let Share { whole, tenths } = shares[subset];
            let repeats = Repeats::of(whole as f64 + tenths as f64 / 10.0);
            OrderedImage { bucket: bucket.index(sizes.len()), subset, repeats }
        });
        let order = Order::new(seed, leftovers, sizes.iter().enumerate().map(bucket).collect(), images.collect());
        (shares, order)
    })
}

/// `(image, repeat, epoch that it is due in)`, each counted once.
type Visits = BTreeMap<(usize, usize, u64), usize>;

fn add(visits: &mut Visits, epoch: u64, plans: &[BatchPlan]) {
    for visit in plans.iter().flat_map(|plan| &plan.visits) {
        *visits.entry((visit.image, visit.repeat, epoch - visit.epochs_ago)).or_default() += 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_image_is_seen_its_repeats_and_nothing_is_lost_or_doubled((shares, order) in orders()) {
        const EPOCHS: u64 = 10;
        let mut seen = Visits::new();
        let mut due_by_image = vec![0u64; order.images.len()];
        for epoch in 0..EPOCHS {
            let plans = order.epoch(epoch);
            prop_assert_eq!(plans.len(), order.batches(epoch));
            add(&mut seen, epoch, &plans);
            for visit in order.rows(epoch).iter().flatten() {
                due_by_image[visit.image] += 1;
            }
            for plan in &plans {
                let bucket = &order.buckets[order.images[plan.visits[0].image].bucket];
                prop_assert!(plan.visits.iter().all(|v| &order.buckets[order.images[v.image].bucket] == bucket));
                prop_assert_eq!(plan.size, bucket.size);
                prop_assert!(plan.visits.len() <= bucket.batch_size);
                if order.leftovers != Leftovers::ShortBatch {
                    prop_assert_eq!(plan.visits.len(), bucket.batch_size);
                }
            }
        }
        prop_assert!(seen.values().all(|&times| times == 1), "a visit came twice");
        // Ten epochs are a round of every share of tenths.
        for (image, due) in due_by_image.iter().enumerate() {
            let Share { whole, tenths } = shares[order.images[image].subset];
            prop_assert_eq!(*due, 10 * whole + tenths);
        }
        let due: u64 = due_by_image.iter().sum();
        let not_seen = due - seen.len() as u64;
        match order.leftovers {
            Leftovers::ShortBatch => prop_assert_eq!(not_seen, 0),
            // What waits after the last epoch is less than a batch of each bucket, and it comes in the next one.
            Leftovers::Carry => {
                let waiting = order.carried_into(EPOCHS);
                prop_assert_eq!(not_seen as usize, waiting.iter().map(Vec::len).sum::<usize>());
                prop_assert!(waiting.iter().zip(&order.buckets).all(|(row, bucket)| row.len() < bucket.batch_size));
                let is_new = |v: &Visit| !seen.contains_key(&(v.image, v.repeat, EPOCHS - v.epochs_ago));
                prop_assert!(waiting.iter().flatten().all(is_new));
            }
            Leftovers::Drop => {
                let most: usize = order.buckets.iter().map(|bucket| bucket.batch_size - 1).sum();
                prop_assert!(not_seen as usize <= most * EPOCHS as usize);
            }
        }
    }

    #[test]
    fn an_epoch_has_its_share_of_a_fraction((shares, order) in orders(), epoch in 0u64..1000) {
        let rows = order.rows(epoch);
        for (subset, &Share { whole, tenths }) in shares.iter().enumerate() {
            let of_subset = |image: usize| order.images[image].subset == subset;
            let images = (0..order.images.len()).filter(|&image| of_subset(image)).count() as u64;
            let visits = rows.iter().flatten().filter(|visit| of_subset(visit.image)).count() as u64;
            let least = images * whole + images * tenths / 10;
            prop_assert!((least..=least + 1).contains(&visits), "{visits} visits of {images} images");
        }
    }

    #[test]
    fn the_parts_of_all_ranks_are_the_order_of_one(
        (_, order) in orders(), world in 1usize..6, epoch in 0u64..20
    ) {
        let per_rank: Vec<usize> = order.buckets.iter().map(|bucket| bucket.batch_size).collect();
        let order = order.with_larger_batches(world);
        let whole = order.epoch(epoch);
        let ranks: Vec<Rank> = (0..world).map(|rank| Rank::new(rank, world).unwrap()).collect();
        let parts: Vec<Vec<BatchPlan>> =
            ranks.iter().map(|&rank| whole.iter().map(|plan| plan.part_of(rank)).collect()).collect();
        for (number, plan) in whole.iter().enumerate() {
            let mut together = Vec::new();
            for part in &parts {
                let part = &part[number];
                prop_assert_eq!((part.number, part.size), (number, plan.size));
                prop_assert!(part.visits.len() <= per_rank[order.images[plan.visits[0].image].bucket]);
                together.extend_from_slice(&part.visits);
            }
            prop_assert_eq!(&together, &plan.visits);
        }
    }
}
