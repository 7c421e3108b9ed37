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

/// The bytes of every image.
fn contents(data: &DataSet) -> BTreeSet<Vec<u8>> {
    (0..data.images()).map(|image| std::fs::read(data.path(image)).unwrap()).collect()
}

fn copy(folder: &Folder, of: &str, name: &str) {
    std::fs::copy(folder.join(&format!("{of}.png")), folder.join(&format!("{name}.png"))).unwrap();
    folder.file(&format!("{name}.txt"), b"another caption");
}

#[test]
fn an_image_under_another_name_is_on_the_side_of_its_copy() {
    let folder = Folder::with_images(12);
    for (of, name) in [("00", "x"), ("00", "y"), ("05", "in/z")] {
        std::fs::create_dir_all(folder.join("in")).unwrap();
        copy(&folder, of, name);
    }
    for seed in 0..20 {
        let (training, held_out) = DataSet::open_split(&folder.config(), seed, 64, 0.4).unwrap();
        assert!(contents(&training).is_disjoint(&contents(&held_out)), "seed {seed}");
        assert_eq!(training.images() + held_out.images(), 15);
        assert_eq!(held_out.images(), 6, "single pictures fill what copies leave");
        let warning = &training.report().warnings[0];
        assert!(warning.starts_with("3 images have the same bytes as another one, `"), "{warning}");
    }
}

#[test]
fn without_copies_the_seed_chooses_as_it_always_did() {
    let folder = Folder::with_images(15);
    let (training, held_out) = DataSet::open_split(&folder.config(), 42, 64, 0.3).unwrap();
    let order = sdtrain_random::permutation(15, 42, sdtrain_random::Purpose::Validation, 0);
    let expected = order[..5].iter().map(|index| folder.join(&format!("{index:02}.png"))).collect();
    assert_eq!(paths(&held_out), expected);
    assert!(training.report().warnings.is_empty());
}

#[test]
fn a_picture_with_more_copies_than_are_wanted_is_held_out_whole() {
    let folder = Folder::with_images(3);
    for of in ["00", "01", "02"] {
        for number in 0..3 {
            copy(&folder, of, &format!("{of}-{number}"));
        }
    }
    let (training, held_out) = DataSet::open_split(&folder.config(), 1, 64, 0.1).unwrap();
    assert_eq!((contents(&held_out).len(), held_out.images(), training.images()), (1, 4, 8));
}

#[test]
fn copies_of_one_picture_cannot_be_divided() {
    let folder = Folder::with_images(1);
    copy(&folder, "00", "a");
    let error = DataSet::open_split(&folder.config(), 42, 64, 0.5).unwrap_err();
    assert!(error.to_string().contains("the 2 images are copies of each other"), "{error}");
}

#[test]
fn held_out_images_that_are_trained_on_as_well_are_named() {
    let (folder, other) = (Folder::with_images(4), Folder::with_images(6));
    let open = |folder: &Folder| DataSet::open(&folder.config(), 1, 64).unwrap();
    let fresh_folder = Folder::new();
    fresh_folder.image("new.png", &crate::folder::picture(64, 48, 200));
    fresh_folder.file("new.txt", b"a");
    let fresh = DataConfig { batch_size: 1, ..fresh_folder.config() };
    assert!(open(&folder).compared_with(&DataSet::open(&fresh, 1, 64).unwrap()).report().warnings.is_empty());

    let compared = open(&folder).compared_with(&open(&other));
    let warning = &compared.report().warnings[0];
    let named = format!("`{}` is `{}`", other.join("03.png").display(), folder.join("03.png").display());
    assert!(
        warning.starts_with("4 of the 6 held-out images are trained on as well") && warning.contains(&named),
        "{warning}"
    );
    assert!(!warning.contains("04.png"), "{warning}");
}
