//! How often images are seen, with which others, and by whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use sdtrain_data_loader::{BatchPlan, DataError, DataSet, HostBatch, Rank};
use sdtrain_recipe::{BucketingConfig, DataConfig, Leftovers, LossConfig, Resolution, Subset, TrainSection};

use crate::folder::{Folder, picture};

fn open(config: &DataConfig) -> DataSet {
    DataSet::open(config, 42, 64).unwrap()
}

/// Visits of each image in these epochs.
fn visits(data: &DataSet, epochs: std::ops::Range<u64>) -> Vec<usize> {
    let mut visits = vec![0; data.images()];
    for visit in epochs.flat_map(|epoch| data.epoch_plan(epoch)).flat_map(|plan: BatchPlan| plan.visits) {
        visits[visit.image] += 1;
    }
    visits
}

fn subset(folder: &Folder, repeats: f64) -> Subset {
    Subset { repeats, ..folder.subset() }
}

/// Two folders of 5 and 3 images, the second at twice the size and in batches of one.
fn two_sizes(first: &Folder, second: &Folder) -> DataConfig {
    let large = Subset {
        resolution: Some(Resolution::Square(128)),
        batch_size: Some(1),
        bucketing: Some(BucketingConfig { enabled: false, ..BucketingConfig::default() }),
        ..second.subset()
    };
    DataConfig { subsets: vec![first.subset(), large], ..first.config() }
}

#[test]
fn each_group_has_its_size_and_batch_and_all_are_shuffled_together() {
    let (first, second) = (Folder::with_images(5), Folder::with_images(3));
    // As large as the other group makes its images, so that only the groups keep them apart.
    first.image("04.png", &picture(128, 128, 4));
    let data = open(&two_sizes(&first, &second));
    let mut sizes = BTreeMap::new();
    for plan in data.epoch_plan(0) {
        let batch = data.load(&plan, 0).unwrap();
        let is_second = plan.visits[0].image >= 5;
        assert!(plan.visits.iter().all(|visit| (visit.image >= 5) == is_second));
        assert_eq!(batch.size, if is_second { (128, 128) } else { (64, 64) });
        *sizes.entry((is_second, batch.len())).or_insert(0) += 1;
    }
    assert_eq!(sizes, BTreeMap::from([((false, 2), 2), ((false, 1), 1), ((true, 1), 3)]));
    let orders: BTreeSet<Vec<bool>> =
        (0..8).map(|epoch| data.epoch_plan(epoch).iter().map(|plan| plan.visits[0].image >= 5).collect()).collect();
    assert!(orders.len() > 4, "the batches of the groups are not mixed: {orders:?}");
    let report = data.report().to_string();
    assert!(report.contains("bucket 64 × 64: 5 images, 3 batches of 2\n"), "{report}");
    assert!(report.contains("bucket 128 × 128: 3 images, 3 batches of 1\n"), "{report}");
}

#[test]
fn equal_sizes_of_two_groups_are_two_buckets() {
    let (first, second) = (Folder::with_images(5), Folder::with_images(3));
    let other = Subset { batch_size: Some(3), ..second.subset() };
    let data = open(&DataConfig { subsets: vec![first.subset(), other], ..first.config() });
    let lengths: BTreeSet<(bool, usize)> =
        data.epoch_plan(0).iter().map(|plan| (plan.visits[0].image >= 5, plan.visits.len())).collect();
    assert_eq!(lengths, BTreeSet::from([(false, 1), (false, 2), (true, 3)]));
    let error = DataSet::open(
        &DataConfig {
            subsets: vec![first.subset(), Subset { batch_size: Some(4), ..second.subset() }],
            ..first.config()
        },
        42,
        64,
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("is 4, but an epoch has only 3 images of 64 × 64 and the like"), "{error}");
}

#[test]
fn settings_that_agree_are_one_group() {
    let (first, second) = (Folder::with_images(3), Folder::with_images(3));
    let same = Subset { batch_size: Some(2), resolution: Some(Resolution::Square(64)), ..second.subset() };
    let data = open(&DataConfig { subsets: vec![first.subset(), same], ..first.config() });
    assert_eq!(data.batches_of_epoch(0), 3);
}

#[test]
fn a_fraction_of_the_images_changes_from_epoch_to_epoch_and_evens_out() {
    let folder = Folder::with_images(6);
    let data = open(&DataConfig { subsets: vec![subset(&folder, 2.5)], ..folder.config() });
    let epochs: Vec<Vec<usize>> = (0..4).map(|epoch| visits(&data, epoch..epoch + 1)).collect();
    for epoch in &epochs {
        assert_eq!(epoch.iter().sum::<usize>(), 15);
        assert!(epoch.iter().all(|visits| [2, 3].contains(visits)));
    }
    assert_ne!(epochs[0], epochs[1]);
    assert_eq!(visits(&data, 0..2), [5; 6]);
    let data = open(&DataConfig { subsets: vec![subset(&folder, 0.3)], ..folder.config() });
    assert_eq!(visits(&data, 20..30), [3; 6]);
    assert_eq!((data.report().visits_in_epochs, data.report().visits_per_epoch), ((1, 2), 2));
    assert!(data.report().to_string().contains("6 kept, 1 to 2 with repeats; 1 batch an epoch"), "{}", data.report());
}

#[test]
fn a_continued_run_knows_a_fraction_from_its_whole_and_old_runs_go_on() {
    let folder = Folder::with_images(3);
    let print = |repeats| {
        open(&DataConfig { subsets: vec![subset(&folder, repeats)], ..folder.config() }).fingerprint().unwrap()
    };
    assert_ne!(print(2.0), print(2.5));
    assert_ne!(print(2.25), print(2.5));
}

#[test]
fn weights_are_shares_of_an_epoch() {
    let (many, few) = (Folder::with_images(9), Folder::with_images(3));
    let weighs = |folder: &Folder, weight: f64| Subset { weight: Some(weight), ..folder.subset() };
    let data = open(&DataConfig { subsets: vec![weighs(&many, 1.0), weighs(&few, 3.0)], ..many.config() });
    for epoch in 0..6 {
        let visits = visits(&data, epoch..epoch + 1);
        assert_eq!((visits[..9].iter().sum::<usize>(), visits[9..].iter().sum::<usize>()), (3, 9));
        assert_eq!(visits[9..], [3, 3, 3]);
    }
    assert_eq!(visits(&data, 0..3)[..9], [1; 9]);
}

#[test]
fn as_many_regularization_images_are_seen_as_others() {
    let (own, class) = (Folder::with_images(3), Folder::with_images(4));
    let regularization = |repeats| Subset { is_regularization: true, ..subset(&class, repeats) };
    let config = |repeats| DataConfig { subsets: vec![subset(&own, 3.0), regularization(repeats)], ..own.config() };
    let data = open(&config(1.0));
    assert_eq!(visits(&data, 0..1), [3, 3, 3, 3, 2, 2, 2]);
    let shown = data.report().to_string();
    assert!(shown.contains("7 kept (4 of them for regularization), 18 with repeats; 9 batches an epoch"), "{shown}");

    // 9 visits need three images of four repeats; the last is not even looked at.
    let data = open(&config(4.0));
    assert_eq!((visits(&data, 0..1), data.images()), (vec![3, 3, 3, 4, 4, 4], 6));
    let report = data.report();
    assert_eq!((report.found, report.kept, report.unused, report.regularization_visits), (7, 6, 1, 12));
    assert!(report.warnings.iter().any(|w| w.starts_with("1 regularization images are not used")), "{report}");

    let data = data.for_run(&TrainSection::default(), &LossConfig { prior_loss_weight: 0.25, ..LossConfig::default() });
    for plan in data.epoch_plan(0) {
        let batch = data.load(&plan, 0).unwrap();
        let expected: Vec<f32> = plan.visits.iter().map(|v| if v.image >= 3 { 0.25 } else { 1.0 }).collect();
        assert_eq!(batch.loss_weights, expected);
    }
    let half = |subset: Subset| Subset { loss_weight: 0.5, ..subset };
    let data = open(&DataConfig { subsets: vec![subset(&own, 3.0), half(regularization(1.0))], ..own.config() });
    let data = data.for_run(&TrainSection::default(), &LossConfig { prior_loss_weight: 0.25, ..LossConfig::default() });
    assert_eq!([0, 3].map(|image| data.loss_weight(image)), [1.0, 0.125]);

    let apart = Subset { batch_size: Some(1), ..regularization(1.0) };
    let error = DataSet::open(&DataConfig { subsets: vec![own.subset(), apart], ..own.config() }, 42, 64).unwrap_err();
    assert!(matches!(error, DataError::OnlyRegularization { .. }) && error.hint().is_some(), "{error}");
}

#[test]
fn no_regularization_image_is_held_out() {
    let (own, class) = (Folder::with_images(4), Folder::new());
    for index in 3..9 {
        // The first is a copy of the last one of the others.
        class.image(&format!("{index:02}.png"), &picture(64, 48, index));
        class.file(&format!("{index:02}.txt"), b"c");
    }
    let regularization = Subset { is_regularization: true, ..class.subset() };
    let config = DataConfig { subsets: vec![regularization, own.subset()], batch_size: 1, ..own.config() };
    let (training, held_out) = DataSet::open_split(&config, 42, 64, 0.5).unwrap();
    assert_eq!(held_out.images(), 2);
    assert!((0..2).all(|image| !held_out.path(image).ends_with("03.png")));
    assert!((0..2).all(|image| held_out.path(image).starts_with(own.path())));
    // Balanced against those that are left to train on.
    assert_eq!(visits(&training, 0..1), [1; 4]);
}

#[test]
fn epochs_that_carry_differ_in_their_batches_and_steps_are_counted_as_they_are() {
    let folder = Folder::with_images(5);
    let carry = DataConfig { leftovers: Leftovers::Carry, ..folder.config() };
    let data = open(&carry);
    let batches: Vec<usize> = (0..6).map(|epoch| data.batches_of_epoch(epoch)).collect();
    assert_eq!(batches, [2, 3, 2, 3, 2, 3]);
    assert_eq!(visits(&data, 0..4), [4; 5]);
    let train = TrainSection { max_epochs: Some(5), gradient_accumulation_steps: 2, ..TrainSection::default() };
    // Steps do not reach across the end of an epoch: 1, 2, 1, 2, 1.
    assert_eq!(data.total_steps(&train), 7);
    assert_eq!(data.total_steps(&TrainSection { max_epochs: None, max_steps: Some(3), ..train }), 3);
    let report = data.report();
    assert_eq!((report.batches_per_epoch, report.batches_in_epochs, report.left_over), (2, (2, 3), 1));
    assert!(report.to_string().contains("2 to 3 batches an epoch, 1 image of the first in no batch, waiting"));
}

#[test]
fn a_first_epoch_without_a_batch_is_refused() {
    let folder = Folder::with_images(3);
    folder.image("wide.png", &picture(128, 32, 9));
    folder.file("wide.txt", b"wide");
    let config = DataConfig { batch_size: 4, leftovers: Leftovers::Carry, ..folder.config() };
    let error = DataSet::open(&config, 42, 64).unwrap_err();
    assert!(error.to_string().contains("the first would be without a batch"), "{error}");
    assert!(error.hint().unwrap().contains("at most 3"));
}

#[test]
fn epochs_without_a_batch_are_passed_over() {
    let folder = Folder::with_images(1);
    let data = Arc::new(open(&DataConfig { batch_size: 1, subsets: vec![subset(&folder, 0.25)], ..folder.config() }));
    assert_eq!((0..6).map(|epoch| data.batches_of_epoch(epoch)).collect::<Vec<_>>(), [1, 0, 0, 0, 1, 0]);
    let epochs: Vec<u64> =
        Arc::clone(&data).prefetch(0, 0, 2).take(3).map(|batch| batch.unwrap().examples[0].epoch).collect();
    assert_eq!(epochs, [0, 4, 8]);
}

#[test]
fn a_visit_that_waited_keeps_the_draws_of_its_epoch() {
    let folder = Folder::with_images(5);
    let moving = Subset { flip: true, random_crop: true, shuffle_caption: true, ..folder.subset() };
    let with = |leftovers| open(&DataConfig { leftovers, subsets: vec![moving.clone()], ..folder.config() });
    type Seen = BTreeMap<(u64, u64), (Vec<u32>, String)>;
    let examples = |data: &DataSet| -> Seen {
        let mut seen = Seen::new();
        for epoch in 0..4 {
            for plan in data.epoch_plan(epoch) {
                let batch = data.load(&plan, epoch).unwrap();
                assert_eq!(data.captions_of(&plan, epoch).unwrap(), batch.captions);
                assert_eq!(data.examples_of(&plan, epoch).unwrap(), batch.examples);
                let size = batch.pixels.len() / batch.len();
                for (place, (example, caption)) in batch.examples.iter().zip(&batch.captions).enumerate() {
                    let pixels = batch.pixels[place * size..][..size].iter().map(|pixel| pixel.to_bits()).collect();
                    let twice = seen.insert((example.epoch, example.index), (pixels, caption.clone()));
                    assert!(twice.is_none(), "{example:?}");
                }
            }
        }
        seen
    };
    let (short, carried) = (examples(&with(Leftovers::ShortBatch)), examples(&with(Leftovers::Carry)));
    assert_eq!(short.len(), carried.len());
    assert!(short == carried, "an example became another by waiting");
}

#[test]
fn ranks_share_the_batches_of_one() {
    let folder = Folder::with_images(11);
    let config = DataConfig { subsets: vec![subset(&folder, 1.5)], ..folder.config() };
    let whole = open(&DataConfig { batch_size: 6, ..config.clone() });
    let ranks: Vec<DataSet> =
        (0..3).map(|rank| open(&config).for_ranks(&[Rank::new(rank, 3).unwrap()]).unwrap()).collect();
    for epoch in 0..3 {
        let expected = whole.epoch_plan(epoch);
        assert!(ranks.iter().all(|rank| rank.batches_of_epoch(epoch) == expected.len()));
        let parts: Vec<Vec<BatchPlan>> = ranks.iter().map(|rank| rank.epoch_plan(epoch)).collect();
        for (number, plan) in expected.iter().enumerate() {
            let together: Vec<_> = parts.iter().flat_map(|part| part[number].visits.clone()).collect();
            assert_eq!(together, plan.visits);
            assert!(parts.iter().all(|part| part[number].visits.len() <= 2));
            let loaded: usize =
                (parts.iter().zip(&ranks)).map(|(part, rank)| rank.load(&part[number], epoch).unwrap().len()).sum();
            assert_eq!(loaded, plan.visits.len());
        }
    }
    // A process that plays two of them has the parts of both, and begins at any batch.
    let both = [0, 2].map(|rank| Rank::new(rank, 3).unwrap());
    let both = Arc::new(open(&config).for_ranks(&both).unwrap());
    let expected: Vec<BatchPlan> = (0..whole.batches_of_epoch(0))
        .flat_map(|batch| [&ranks[0], &ranks[2]].map(|rank| rank.epoch_plan(0)[batch].clone()))
        .collect();
    assert_eq!(both.epoch_plan(0), expected);
    assert!(
        expected
            .iter()
            .zip(whole.epoch_plan(0).iter().flat_map(|plan| [plan; 2]))
            .all(|(part, plan)| part.whole == plan.visits.len())
    );
    let from_the_second: Vec<HostBatch> = both.clone().prefetch(0, 1, 2).take(2).collect::<Result<_, _>>().unwrap();
    assert_eq!(from_the_second, [&expected[2], &expected[3]].map(|part| both.load(part, 0).unwrap()));
    let error = open(&config).for_ranks(&[Rank::new(0, 12).unwrap()]).unwrap_err();
    assert!(error.to_string().contains("an epoch has only 17 images, repeats counted on each of 12 ranks"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_goes_on_from_any_batch_with_any_number_of_workers(
        leftovers in prop_oneof![Just(Leftovers::ShortBatch), Just(Leftovers::Carry), Just(Leftovers::Drop)],
        repeats in prop_oneof![Just(1.0), Just(0.5), Just(1.3)],
        batch_size in 1usize..4,
        world in 1usize..3,
        stop in 0usize..12,
        workers in (0usize..4, 0usize..4),
    ) {
        let (first, second) = (Folder::with_images(7), Folder::with_images(3));
        let mut config = two_sizes(&first, &second);
        config.subsets[0].repeats = repeats;
        let config = DataConfig { leftovers, batch_size, ..config };
        let rank = Rank::new(world - 1, world).unwrap();
        let Ok(data) = DataSet::open(&config, 42, 64).and_then(|data| data.for_ranks(&[rank])) else { return Ok(()) };
        let data = Arc::new(data);
        let whole: Vec<HostBatch> =
            Arc::clone(&data).prefetch(0, 0, workers.0).take(14).collect::<Result<_, _>>().unwrap();
        let (mut epoch, mut batch) = (0, stop);
        while batch >= data.batches_of_epoch(epoch) {
            batch -= data.batches_of_epoch(epoch);
            epoch += 1;
        }
        let again = Arc::new(DataSet::open(&config, 42, 64).unwrap().for_ranks(&[rank]).unwrap());
        let rest: Vec<HostBatch> =
            again.prefetch(epoch, batch, workers.1).take(14 - stop).collect::<Result<_, _>>().unwrap();
        prop_assert!(rest == whole[stop..], "from batch {batch} of epoch {epoch}");
    }
}
