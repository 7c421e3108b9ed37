//! Holding images out for validation.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sdtrain_data_loader::DataSet;
use sdtrain_recipe::{DataConfig, Subset};

use crate::folder::Folder;

fn paths(data: &DataSet) -> BTreeSet<PathBuf> {
    (0..data.images()).map(|image| data.path(image).to_owned()).collect()
}

#[test]
fn no_image_is_on_both_sides_and_none_is_lost() {
    let folder = Folder::with_images(15);
    for (part, count) in [(0.1, 2), (0.0001, 1), (0.5, 8), (1.0, 14)] {
        let config = DataConfig { batch_size: 1, ..folder.config() };
        let (training, held_out) = DataSet::open_split(&config, 42, 64, part).unwrap();
        assert_eq!(held_out.images(), count);
        assert!(paths(&training).is_disjoint(&paths(&held_out)));
        assert_eq!(paths(&training).len() + paths(&held_out).len(), 15);
    }
}

#[test]
fn the_seed_chooses() {
    let folder = Folder::with_images(15);
    let held_out = |seed| paths(&DataSet::open_split(&folder.config(), seed, 64, 0.3).unwrap().1);
    assert_eq!(held_out(1), held_out(1));
    assert_ne!(held_out(1), held_out(2));
}

#[test]
fn held_out_images_are_seen_once_and_as_they_are() {
    let folder = Folder::with_images(10);
    let subset =
        Subset { repeats: 5.0, flip: true, shuffle_caption: true, caption_dropout_rate: 1.0, ..folder.subset() };
    let config = DataConfig { subsets: vec![subset], ..folder.config() };
    let (training, held_out) = DataSet::open_split(&config, 42, 64, 0.3).unwrap();
    assert_eq!(training.report().visits_per_epoch, 35);
    assert_eq!(held_out.report().visits_per_epoch, 3);
    for plan in held_out.epoch_plan(9) {
        let batch = held_out.load(&plan, 9).unwrap();
        assert!(batch.examples.iter().all(|example| !example.flipped));
        assert!(batch.captions.iter().all(|caption| caption.starts_with("t, a")));
    }
}

#[test]
fn a_single_image_cannot_be_divided() {
    let folder = Folder::with_images(1);
    let config = DataConfig { batch_size: 1, ..folder.config() };
    let error = DataSet::open_split(&config, 42, 64, 0.5).unwrap_err();
    assert!(error.hint().unwrap().contains("validation.split"));
}
