//! Opening, order, loading.

use std::collections::BTreeSet;

use sdtrain_data_loader::{DataSet, HostBatch};
use sdtrain_recipe::{BucketingConfig, DataConfig, Leftovers, ResizeKernel, ResizeMode, Subset};

use crate::folder::{Folder, picture};

fn open(config: &DataConfig) -> DataSet {
    DataSet::open(config, 42, 64).unwrap()
}

fn epoch(data: &DataSet, epoch: u64) -> Vec<HostBatch> {
    data.epoch_plan(epoch).iter().map(|plan| data.load(plan, epoch).unwrap()).collect()
}

#[test]
fn an_epoch_holds_every_image_in_its_bucket() {
    let folder = Folder::with_images(5);
    folder.image("deep/wide.png", &picture(128, 32, 9));
    folder.file("deep/wide.txt", b"wide");
    let data = open(&folder.config());
    let report = data.report();
    assert_eq!((report.found, report.kept, report.batches_per_epoch), (6, 6, 4));
    let buckets: Vec<_> = report.buckets.iter().map(|b| (b.size, b.images, b.batches)).collect();
    assert_eq!(buckets, [((64, 64), 5, 3), ((128, 32), 1, 1)]);

    let mut seen = BTreeSet::new();
    for batch in epoch(&data, 0) {
        assert_eq!(batch.pixels.len(), batch.len() * 3 * batch.size.0 * batch.size.1);
        assert_eq!(batch.captions.len(), batch.len());
        for (example, caption) in batch.examples.iter().zip(&batch.captions) {
            assert!(seen.insert(example.image));
            let stem = example.path.file_stem().unwrap().to_str().unwrap();
            let expected = stem.parse::<usize>().map_or("wide".to_owned(), |i| format!("t, a{i}, b{i}, c{i}"));
            assert_eq!(caption, &expected);
        }
    }
    assert_eq!(seen.len(), 6);
}

#[test]
fn pixels_are_planes_of_the_scaled_and_cut_image() {
    let folder = Folder::new();
    folder.image("a.png", &picture(64, 48, 51));
    folder.file("a.txt", b"a");
    let data = open(&folder.config_of_size(64, 32));
    let batch = &epoch(&data, 0)[0];
    assert_eq!(batch.size, (64, 32));
    assert_eq!(batch.original_sizes, [(64, 48)]);
    assert_eq!(batch.crop_offsets, [(0, 8)]);
    let at = |channel: usize, x: usize, y: usize| batch.pixels[(channel * 32 + y) * 64 + x];
    let of = |value: u32| value as f32 / 127.5 - 1.0;
    for (x, y) in [(0, 0), (63, 0), (10, 31), (63, 31)] {
        assert_eq!(at(0, x, y), of(x as u32 * 255 / 64));
        assert_eq!(at(1, x, y), of((y as u32 + 8) * 255 / 48));
        assert_eq!(at(2, x, y), of(51));
    }
}

#[test]
fn a_squeezed_image_is_seen_whole() {
    let folder = Folder::new();
    // A square of 64 pixels that covers the upper half of the left half: squeezed to half of its height, it still does.
    let quarter = |x: u32, y: u32| image::Rgb([if x < 64 && y < 64 { 255 } else { 0 }; 3]);
    folder.image("a.png", &image::RgbImage::from_fn(128, 128, quarter));
    folder.file("a.txt", b"a");
    let config = DataConfig { resize: ResizeMode::Squeeze, ..folder.config_of_size(64, 32) };
    let data = open(&config);
    let batch = &epoch(&data, 0)[0];
    assert_eq!(
        (batch.size, &batch.original_sizes[..], &batch.crop_offsets[..]),
        ((64, 32), &[(128, 128)][..], &[(0, 0)][..])
    );
    for y in 0..32 {
        for x in 0..64 {
            let expected = if x < 32 && y < 16 { 1.0 } else { -1.0 };
            assert_eq!(batch.pixels[y * 64 + x], expected, "{x}, {y}");
        }
    }
    // What is kept of an image is kept under another name than that of the cropped one.
    let cropped = open(&folder.config_of_size(64, 32)).still_view(0);
    let squeezed = data.still_view(0);
    assert_eq!((squeezed.resized, squeezed.corner, squeezed.is_squeezed()), ((64, 32), (0, 0), true));
    assert_eq!((cropped.resized, cropped.corner, cropped.is_squeezed()), ((64, 64), (0, 16), false));
}

#[test]
fn what_an_example_becomes_does_not_depend_on_its_batch() {
    let folder = Folder::with_images(7);
    let subset = Subset {
        flip: true,
        random_crop: true,
        shuffle_caption: true,
        keep_tokens: 1,
        caption_dropout_rate: 0.3,
        repeats: 2.0,
        ..folder.subset()
    };
    let config = DataConfig { subsets: vec![subset], ..folder.config() };
    let by_index = |batch_size: usize, leftovers: Leftovers| {
        let data = open(&DataConfig { batch_size, leftovers, ..config.clone() });
        let mut all = std::collections::BTreeMap::new();
        for batch in epoch(&data, 3).into_iter().rev() {
            let size = batch.pixels.len() / batch.len();
            for i in 0..batch.len() {
                let pixels: Vec<u32> = batch.pixels[i * size..][..size].iter().map(|p| p.to_bits()).collect();
                let id = batch.examples[i].clone();
                all.insert(id.index, (id, pixels, batch.captions[i].clone(), batch.crop_offsets[i]));
            }
        }
        all
    };
    let one_by_one = by_index(1, Leftovers::ShortBatch);
    assert_eq!(one_by_one.len(), 14);
    assert_eq!(one_by_one, by_index(4, Leftovers::ShortBatch));
    for (index, example) in by_index(4, Leftovers::Drop) {
        assert_eq!(one_by_one[&index], example);
    }
    // The two repeats of an image are two draws.
    assert!((0..7).any(|image| one_by_one[&image].3 != one_by_one[&(image + 7)].3));
    assert!(one_by_one.values().any(|e| e.0.flipped) && one_by_one.values().any(|e| !e.0.flipped));
}

#[test]
fn captions_and_examples_are_known_without_reading_images() {
    let folder = Folder::with_images(6);
    let subset = Subset { flip: true, shuffle_caption: true, repeats: 3.0, ..folder.subset() };
    let data = open(&DataConfig { subsets: vec![subset], ..folder.config() });
    for epoch in 0..3 {
        for plan in data.epoch_plan(epoch) {
            let batch = data.load(&plan, epoch).unwrap();
            assert_eq!(data.captions_of(&plan, epoch).unwrap(), batch.captions);
            assert_eq!(data.examples_of(&plan, epoch).unwrap(), batch.examples);
        }
    }
}

#[test]
fn a_kept_image_is_the_one_its_batch_would_hold() {
    let folder = Folder::with_images(4);
    let subset = Subset { flip: true, ..folder.subset() };
    let data = open(&DataConfig { batch_size: 1, subsets: vec![subset], ..folder.config() });
    assert!(data.is_cacheable());
    for batch in epoch(&data, 1) {
        let id = &batch.examples[0];
        let image = data.load_image(id.image, id.flipped).unwrap();
        assert_eq!((image.pixels, image.size), (batch.pixels, batch.size));
        assert_eq!(image.image, id.image);
    }
    let random = Subset { random_crop: true, ..folder.subset() };
    assert!(!open(&DataConfig { subsets: vec![random], ..folder.config() }).is_cacheable());
}

#[test]
fn indices_stay_when_repeats_change() {
    let folder = Folder::with_images(3);
    let index_of = |repeats: f64| {
        let data = open(&DataConfig { subsets: vec![Subset { repeats, ..folder.subset() }], ..folder.config() });
        let ids: BTreeSet<(u64, usize)> =
            epoch(&data, 0).iter().flat_map(|b| &b.examples).map(|e| (e.index, e.image)).collect();
        ids
    };
    assert_eq!(index_of(1.0), BTreeSet::from([(0, 0), (1, 1), (2, 2)]));
    assert!(index_of(2.0).is_superset(&index_of(1.0)));
}

#[test]
fn dropped_leftovers_are_reported() {
    let folder = Folder::with_images(5);
    let data = open(&DataConfig { leftovers: Leftovers::Drop, ..folder.config() });
    assert_eq!((data.report().left_over, data.batches_of_epoch(0)), (1, 2));
    assert_eq!(data.epoch_plan(0).len(), 2);
    assert!(data.report().to_string().contains("1 image of the first in no batch, left out"));
}

#[test]
fn without_enlarging_a_small_image_gets_its_own_bucket() {
    let folder = Folder::new();
    folder.image("a.png", &picture(40, 50, 1));
    folder.file("a.txt", b"a");
    let bucketing = BucketingConfig { no_upscale: true, step: Some(16), ..BucketingConfig::default() };
    let data = open(&DataConfig { bucketing, batch_size: 1, ..folder.config() });
    assert_eq!(epoch(&data, 0)[0].size, (32, 48));
}

#[test]
fn the_fingerprint_follows_the_content_and_not_the_place() {
    let (here, there) = (Folder::with_images(3), Folder::with_images(3));
    let print = |folder: &Folder| open(&folder.config()).fingerprint().unwrap();
    assert_eq!(print(&here), print(&there));
    there.file("01.txt", b"another caption");
    assert_ne!(print(&here), print(&there));
    // Another picture in a file of the same length, as an editor may leave it behind.
    let there = Folder::with_images(3);
    let before = std::fs::read(there.join("01.png")).unwrap();
    let is_another = |number: &u8| {
        there.image("01.png", &picture(64, 48, *number));
        let now = std::fs::read(there.join("01.png")).unwrap();
        now.len() == before.len() && now != before
    };
    (2..=255u8).find(is_another).expect("one of 254 has this length");
    assert_ne!(print(&here), print(&there));
    // Of that a listing knows nothing; of captions and other images it does.
    let listing = |folder: &Folder| open(&folder.config()).listing();
    assert_eq!(listing(&here), listing(&there));
    there.file("01.txt", b"another caption");
    assert_ne!(listing(&here), listing(&there));
    let there = Folder::with_images(4);
    assert_ne!(print(&here), print(&there));
    assert_ne!(listing(&here), listing(&there));
}

#[test]
fn an_image_that_is_gone_leaves_no_fingerprint() {
    let folder = Folder::with_images(3);
    let data = open(&folder.config());
    let before = data.fingerprint().unwrap();
    let bytes = std::fs::read(folder.join("01.png")).unwrap();
    std::fs::remove_file(folder.join("01.png")).unwrap();
    let error = data.fingerprint().unwrap_err().to_string();
    assert!(error.contains("01.png"), "{error}");
    folder.file("01.png", &bytes);
    assert_eq!(data.fingerprint().unwrap(), before);
}

#[test]
fn images_without_a_caption_take_the_class_tokens() {
    let folder = Folder::with_images(2);
    folder.image("bare.png", &picture(64, 48, 3));
    folder.file("00.txt", b"");
    let subset = Subset { class_tokens: Some("a poster".to_owned()), ..folder.subset() };
    let data = open(&DataConfig { subsets: vec![subset], ..folder.config() });
    let captions: Vec<String> = (0..3).map(|image| data.caption(image)).collect();
    assert_eq!(captions, ["", "t, a1, b1, c1", "a poster"]);
    let counts = &data.report().captions;
    assert_eq!((counts.from_file, counts.from_class_tokens, counts.empty), (1, 1, 1));
    assert!(data.report().warnings[0].contains("1 caption files are empty, the first is that of"));
}

#[test]
fn what_decides_the_pixels_of_an_image_is_said_of_it() {
    let folder = Folder::with_images(2);
    folder.image("wide.png", &picture(96, 64, 9));
    folder.file("wide.txt", b"wide");
    let mut config = folder.config();
    config.bucketing.enabled = false;
    config.alpha.background = [1, 2, 3];
    config.subsets[0].resize_kernel = Some(ResizeKernel::Nearest);
    let data = open(&config);
    let view = data.still_view(2);
    assert_eq!((view.original_size, view.resized, view.corner, view.bucket), ((96, 64), (96, 64), (16, 0), (64, 64)));
    assert_eq!((view.resize_kernel, view.alpha.background), (ResizeKernel::Nearest, [1, 2, 3]));
    // It is the truth about `load_image`.
    let loaded = data.load_image(2, false).unwrap();
    let red = |x: u32, y: u32| f32::from(picture(96, 64, 9).get_pixel(x, y).0[0]) / 127.5 - 1.0;
    assert_eq!((loaded.crop_offset, loaded.pixels[0], loaded.pixels[63]), (view.corner, red(16, 0), red(79, 0)));
    assert!(!data.is_turned(2));
    assert_eq!(data.image_file(2), Some(folder.join("wide.png").as_path()));
    let digest = |data: &DataSet| data.image_digest(2).unwrap();
    let before = digest(&data);
    assert_eq!(before, *blake3::hash(&std::fs::read(folder.join("wide.png")).unwrap()).as_bytes());
    folder.image("wide.png", &picture(96, 64, 10));
    assert_ne!(digest(&data), before);
}

#[test]
fn an_image_that_its_file_turns_is_known() {
    let folder = Folder::with_images(1);
    folder.file("turned.jpg", include_bytes!("files/turned.jpg"));
    folder.file("turned.txt", b"turned");
    let data = open(&folder.config());
    assert_eq!([data.is_turned(0), data.is_turned(1)], [false, true]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_there_under_two_names_is_seen_under_both_and_told() {
    let folder = Folder::new();
    for index in 0..3u8 {
        folder.image(&format!("real/{index}.png"), &picture(64, 48, index));
        folder.file(&format!("real/{index}.txt"), b"a");
    }
    std::os::unix::fs::symlink("real", folder.join("linked")).unwrap();
    // As `repeats = 2` would; kohya's scripts and a copy of the folder do the same.
    let data = DataSet::open(&folder.config(), 42, 64).unwrap();
    assert_eq!(data.images(), 6);
    let warnings = data.report().warnings.join("\n");
    assert!(warnings.contains("3 images are listed more than once, by several subsets or by links"), "{warnings}");
}
