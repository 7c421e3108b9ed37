//! Data that cannot be trained on: one clear message each, and all of them at once.

use sdtrain_data_loader::{DataError, DataSet};
use sdtrain_recipe::{CaptionConfig, DataConfig, Leftovers, MissingCaption, Subset};

use crate::folder::{Folder, picture};

fn refused(config: &DataConfig) -> DataError {
    DataSet::open(config, 42, 64).expect_err("this data should be refused")
}

/// The PNG of a picture with its last bytes missing: header and size are fine.
fn cut_png(folder: &Folder, name: &str) {
    let bytes = std::fs::read(folder.join(name)).unwrap();
    folder.file(name, &bytes[..bytes.len() - 20]);
}

/// A PNG whose ends are fine but whose pixels are not: found only when it is decoded.
fn spoil_pixels(folder: &Folder, name: &str) {
    let mut bytes = std::fs::read(folder.join(name)).unwrap();
    let data = bytes.windows(4).position(|w| w == b"IDAT").unwrap() + 4;
    bytes[data + 10..data + 20].fill(0xAA);
    folder.file(name, &bytes);
}

#[test]
fn missing_captions_are_counted_and_the_first_is_named() {
    let folder = Folder::with_images(4);
    std::fs::remove_file(folder.join("01.txt")).unwrap();
    std::fs::remove_file(folder.join("03.txt")).unwrap();
    let error = refused(&folder.config());
    let first = folder.join("01.png");
    assert_eq!(error.to_string(), format!("2 of 4 images have no caption, the first is `{}`", first.display()));
    assert!(error.hint().unwrap().contains("`data.caption.missing = \"empty\"`"));

    let config = DataConfig { caption: CaptionConfig { missing: MissingCaption::Empty }, ..folder.config() };
    let data = DataSet::open(&config, 42, 64).unwrap();
    assert_eq!(data.report().captions.missing, 2);
    assert_eq!(data.caption(1), "");
}

#[test]
fn captions_with_another_ending_are_pointed_at() {
    let folder = Folder::new();
    folder.image("a.png", &picture(64, 48, 0));
    folder.file("a.caption", b"text");
    let hint = refused(&folder.config()).hint().unwrap();
    assert!(hint.contains("`caption_extension = \".caption\"`"), "{hint}");
}

#[test]
fn one_unreadable_image_in_a_hundred_is_left_out_by_name() {
    let folder = Folder::with_images(100);
    cut_png(&folder, "07.png");
    let data = DataSet::open(&folder.config(), 42, 64).unwrap();
    let report = data.report();
    assert_eq!((report.found, report.kept, report.unreadable), (100, 99, 1));
    assert_eq!(report.dropped[0].path, folder.join("07.png"));
    assert!(report.dropped[0].reason.contains("truncated"), "{}", report.dropped[0].reason);

    cut_png(&folder, "08.png");
    let error = refused(&folder.config()).to_string();
    assert!(error.starts_with("2 of 100 images cannot be read:"), "{error}");
    assert!(error.contains("07.png") && error.contains("08.png"), "{error}");
}

#[test]
fn an_image_that_cannot_be_decoded_is_replaced_in_the_same_way_whatever_the_order() {
    let folder = Folder::with_images(100);
    spoil_pixels(&folder, "07.png");
    let load = |reversed: bool| {
        let data = DataSet::open(&folder.config(), 42, 64).unwrap();
        assert_eq!(data.images(), 100);
        let mut plans = data.epoch_plan(0);
        if reversed {
            plans.reverse();
        }
        let mut batches: Vec<_> = plans.iter().map(|plan| data.load(plan, 0).unwrap()).collect();
        if reversed {
            batches.reverse();
        }
        let unreadable = data.unreadable();
        assert_eq!(unreadable.len(), 1);
        assert_eq!(unreadable[0].path, folder.join("07.png"));
        batches
    };
    let batches = load(false);
    assert_eq!(batches, load(true));
    let stands_in: Vec<_> = batches.iter().flat_map(|b| &b.examples).filter(|e| e.index == 7).collect();
    assert_eq!(stands_in.len(), 1);
    assert_eq!(stands_in[0].path, folder.join("08.png"));
    let captions: Vec<_> = batches.iter().flat_map(|b| b.examples.iter().zip(&b.captions)).collect();
    assert!(captions.iter().all(|(e, caption)| e.index != 7 || *caption == "t, a8, b8, c8"));
}

#[test]
fn an_image_that_stands_in_is_treated_as_its_own_subset_says() {
    let mirrored = Folder::with_images(1);
    spoil_pixels(&mirrored, "00.png");
    let plain = Folder::with_images(99);
    let subsets = vec![Subset { flip: true, random_crop: true, ..mirrored.subset() }, plain.subset()];
    let data = DataSet::open(&DataConfig { subsets, ..plain.config() }, 42, 64).unwrap();
    assert!(data.may_be_mirrored(0) && !data.may_be_mirrored(1));
    for epoch in 0..8 {
        for plan in data.epoch_plan(epoch).iter().filter(|plan| plan.visits.iter().any(|visit| visit.image == 0)) {
            let batch = data.load(plan, epoch).unwrap();
            let place = batch.examples.iter().position(|example| example.index == 0).unwrap();
            assert_eq!((batch.examples[place].image, batch.examples[place].flipped), (1, false));
            assert_eq!(batch.crop_offsets[place], (10, 0));
        }
    }
}

#[test]
fn more_than_one_in_a_hundred_found_while_loading_is_an_error() {
    let folder = Folder::with_images(100);
    spoil_pixels(&folder, "07.png");
    cut_png(&folder, "50.png");
    let data = DataSet::open(&folder.config(), 42, 64).unwrap();
    let failed = data.epoch_plan(0).iter().find_map(|plan| data.load(plan, 0).err()).unwrap();
    assert!(failed.to_string().contains("07.png"), "{failed}");
}

#[test]
fn an_image_exchanged_during_the_run_is_noticed() {
    let folder = Folder::with_images(100);
    let data = DataSet::open(&folder.config(), 42, 64).unwrap();
    folder.image("07.png", &picture(80, 48, 1));
    for plan in data.epoch_plan(0) {
        data.load(&plan, 0).unwrap();
    }
    assert_eq!(data.unreadable()[0].reason, "was 64 × 48 pixels at the start and is 80 × 48 now");
}

/// A file of no length whose every read the system refuses with EIO, as a failing disk does.
fn refuse_to_be_read(folder: &Folder, name: &str) {
    std::fs::remove_file(folder.join(name)).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", folder.join(name)).unwrap();
}

#[test]
fn a_disk_that_does_not_give_an_image_ends_the_run_and_no_other_takes_its_place() {
    let is_of = |error: &DataError, folder: &Folder| {
        assert!(matches!(error, DataError::Disk { path, .. } if *path == folder.join("07.png")), "{error}");
    };
    let folder = Folder::with_images(100);
    let data = DataSet::open(&folder.config(), 42, 64).unwrap();
    let before = data.fingerprint().unwrap();
    refuse_to_be_read(&folder, "07.png");
    let failed = data.epoch_plan(0).iter().find_map(|plan| data.load(plan, 0).err()).unwrap();
    is_of(&failed, &folder);
    assert!(data.unreadable().is_empty());
    // Nor does it change what the data are called, or which of them there are.
    is_of(&data.fingerprint().unwrap_err(), &folder);
    is_of(&refused(&folder.config()), &folder);
    std::fs::remove_file(folder.join("07.png")).unwrap();
    folder.image("07.png", &picture(64, 48, 7));
    assert_eq!(DataSet::open(&folder.config(), 42, 64).unwrap().fingerprint().unwrap(), before);
}

#[test]
fn small_images_are_left_out_with_their_size() {
    let folder = Folder::with_images(3);
    folder.image("tiny.png", &picture(1, 200, 0));
    folder.file("tiny.txt", b"a");
    let data = DataSet::open(&folder.config(), 42, 64).unwrap();
    let report = data.report();
    assert_eq!((report.kept, report.unreadable), (3, 0));
    assert!(report.dropped[0].reason.starts_with("1 × 200 pixels"), "{}", report.dropped[0].reason);
}

#[test]
fn nothing_left_says_why() {
    let folder = Folder::new();
    folder.image("tiny.png", &picture(2, 2, 0));
    folder.file("tiny.txt", b"a");
    let error = refused(&DataConfig { batch_size: 1, ..folder.config() }).to_string();
    assert!(error.starts_with("none of the 1 images can be used:") && error.contains("tiny.png"), "{error}");
}

#[test]
fn a_batch_larger_than_the_data_is_refused() {
    let folder = Folder::with_images(5);
    let error = refused(&DataConfig { batch_size: 6, ..folder.config() });
    assert_eq!(error.to_string(), "`data.batch_size` is 6, but an epoch has only 5 images, repeats counted");
    assert!(error.hint().unwrap().contains("at most 5"));
    let repeated = Subset { repeats: 2.0, ..folder.subset() };
    let config = DataConfig { batch_size: 6, subsets: vec![repeated], ..folder.config() };
    assert!(DataSet::open(&config, 42, 64).is_ok());

    folder.image("wide.png", &picture(128, 32, 9));
    folder.file("wide.txt", b"wide");
    let error = refused(&DataConfig { batch_size: 6, leftovers: Leftovers::Drop, ..folder.config() });
    assert!(error.to_string().contains("the largest bucket has 5 images"), "{error}");
    assert!(error.hint().unwrap().contains("short_batch"));
}

#[test]
fn all_problems_come_at_once() {
    let folder = Folder::with_images(4);
    std::fs::remove_file(folder.join("00.txt")).unwrap();
    folder.file("01.txt", b"caf\xe9");
    cut_png(&folder, "02.png");
    let gone = Subset { path: folder.join("gone"), ..Subset::default() };
    let empty = Folder::new();
    let config = DataConfig { subsets: vec![folder.subset(), gone, empty.subset()], ..folder.config() };
    let error = refused(&config);
    let kinds: Vec<&str> = error
        .each()
        .into_iter()
        .map(|e| match e {
            DataError::NoFolder { .. } => "folder",
            DataError::NoImages { .. } => "images",
            DataError::TooManyUnreadable { .. } => "unreadable",
            DataError::Captions { .. } => "captions",
            DataError::MissingCaptions { missing: 1, .. } => "missing",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["folder", "images", "unreadable", "captions", "missing"], "{error}");
    assert!(error.each().iter().all(|e| e.hint().is_some()));
}

#[test]
fn no_subset_at_all_is_refused() {
    let config = DataConfig { subsets: Vec::new(), ..Folder::new().config() };
    assert!(refused(&config).hint().unwrap().contains("[[data.subsets]]"));
}

#[test]
fn the_same_image_twice_is_mentioned() {
    let folder = Folder::with_images(3);
    let config = DataConfig { subsets: vec![folder.subset(), folder.subset()], ..folder.config() };
    let data = DataSet::open(&config, 42, 64).unwrap();
    assert!(data.report().warnings[0].starts_with("3 images are listed more than once"));
}
