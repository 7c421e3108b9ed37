//! Masks, control images, transparency, kernels and colours, by the configuration.

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Rgb, Rgba};
use sdtrain_data_loader::{CONDITIONING_IMAGE, Contents, DataSet, HostBatch};
use sdtrain_recipe::{
    AlphaConfig, BucketingConfig, ColorAugmentation, ColorChanges, DataConfig, ExtraImages, ResizeKernel, ResizeMode,
    Resolution, Subset,
};

use crate::folder::{Folder, picture};

/// Every image cut to 32 × 32, those of `Folder::with_images` from 43 × 32.
fn config(folder: &Folder, subset: Subset) -> DataConfig {
    DataConfig {
        resolution: Resolution::Square(32),
        bucketing: BucketingConfig { enabled: false, ..BucketingConfig::default() },
        subsets: vec![subset],
        ..folder.config()
    }
}

fn first_batch(config: &DataConfig) -> HostBatch {
    let data = DataSet::open(config, 3, 64).unwrap();
    data.load(&data.epoch_plan(0)[0], 0).unwrap()
}

fn mask(path: Option<std::path::PathBuf>, suffix: &str) -> ExtraImages {
    ExtraImages { column: "mask".to_owned(), path, suffix: suffix.to_owned(), source_column: None }
}

/// White where the picture's red is over 127.
fn mask_of_picture() -> DynamicImage {
    let picture = picture(128, 96, 0);
    GrayImage::from_fn(128, 96, |x, y| Luma([if picture.get_pixel(x, y).0[0] > 127 { 255 } else { 0 }])).into()
}

#[test]
fn a_mask_beside_its_image_is_cut_and_mirrored_with_it() {
    let folder = Folder::with_images(4);
    for index in 0..4 {
        mask_of_picture().save(folder.join(&format!("{index:02}-masklabel.png"))).unwrap();
    }
    let extra_images = vec![mask(None, "-masklabel")];
    let subset = Subset { flip: true, random_crop: true, repeats: 4.0, extra_images, ..folder.subset() };
    let data = DataSet::open(&config(&folder, subset), 3, 64).unwrap();
    assert_eq!(data.images(), 4, "masks are no images");
    let (mut mirrored, mut offsets) = (0, std::collections::BTreeSet::new());
    for plan in data.epoch_plan(0) {
        let batch = data.load(&plan, 0).unwrap();
        let mask = batch.mask.as_ref().unwrap();
        assert_eq!(mask.len(), batch.len() * 32 * 32);
        for (place, example) in batch.examples.iter().enumerate() {
            mirrored += usize::from(example.flipped);
            offsets.insert(batch.crop_offsets[place]);
            for pixel in 0..32 * 32 {
                let red = batch.pixels[place * 3 * 32 * 32 + pixel];
                let weight = mask[place * 32 * 32 + pixel];
                // The mask has twice the size, so its edge is a pixel wide.
                if red.abs() > 0.05 {
                    assert_eq!(weight, f32::from(red > 0.0), "{example:?} at {pixel}");
                }
            }
        }
    }
    assert!((2..15).contains(&mirrored) && offsets.len() > 3, "{mirrored} {offsets:?}");
}

#[test]
fn a_listing_knows_the_lengths_of_masks_also_while_they_are_away() {
    let folder = Folder::with_images(2);
    let write = |white: u32| {
        let mask = GrayImage::from_fn(64, 48, |x, y| Luma([if x * y % 64 < white { 255 } else { 0 }]));
        mask.save(folder.join("00-masklabel.png")).unwrap();
        std::fs::metadata(folder.join("00-masklabel.png")).unwrap().len()
    };
    let open = || {
        let subset = Subset { extra_images: vec![mask(None, "-masklabel")], ..folder.subset() };
        DataSet::open(&config(&folder, subset), 3, 64).unwrap()
    };
    let length = write(0);
    let before = open();
    assert_eq!(open().listing(), before.listing());
    assert_ne!(write(31), length);
    assert_ne!(open().listing(), before.listing());
    let listing = open().listing();
    let data = open();
    std::fs::remove_file(folder.join("00-masklabel.png")).unwrap();
    assert_eq!(data.listing(), listing);
}

#[test]
fn masks_and_control_images_are_squeezed_with_their_image() {
    let folder = Folder::with_images(1);
    mask_of_picture().save(folder.join("00-m.png")).unwrap();
    picture(128, 96, 0).save(folder.join("00-c.png")).unwrap();
    let control = ExtraImages { column: CONDITIONING_IMAGE.to_owned(), ..mask(None, "-c") };
    let subset = Subset { extra_images: vec![mask(None, "-m"), control], ..folder.subset() };
    let batch = first_batch(&DataConfig { resize: ResizeMode::Squeeze, batch_size: 1, ..config(&folder, subset) });
    assert_eq!(batch.crop_offsets, [(0, 0)]);
    let (mask, control) = (batch.mask.as_ref().unwrap(), &batch.extra_images[CONDITIONING_IMAGE]);
    // Red goes from 0 at the left edge to 255 at the right one, in all three.
    for (x, red) in [(0, -1.0), (31, 1.0)] {
        assert!((batch.pixels[x] - red).abs() < 0.1 && (control[x] - red).abs() < 0.1, "{x}");
        assert_eq!(mask[x], f32::from(red > 0.0), "{x}");
    }
}

#[test]
fn a_mask_in_a_folder_of_its_own_may_be_missing_and_is_then_whole() {
    let folder = Folder::with_images(2);
    mask_of_picture().save(folder.join("m.png")).unwrap();
    std::fs::create_dir(folder.join("masks")).unwrap();
    std::fs::rename(folder.join("m.png"), folder.join("masks/00.png")).unwrap();
    mask_of_picture().save(folder.join("masks/nobody.png")).unwrap();
    let subset = Subset { extra_images: vec![mask(Some(folder.join("masks")), "")], ..folder.subset() };
    let config = config(&folder, subset);
    let data = DataSet::open(&config, 3, 64).unwrap();
    assert_eq!(data.images(), 2, "the folder of masks lies within that of images");
    let warnings = data.report().warnings.join("\n");
    assert!(warnings.contains("1 images of") && warnings.contains("have no mask and are trained whole"), "{warnings}");
    assert!(warnings.contains("1 masks, control images and the like belong to no image"), "{warnings}");
    let batch = first_batch(&config);
    let whole = batch.examples.iter().position(|e| e.image == 1).unwrap();
    let mask = batch.mask.unwrap();
    assert!(mask[whole * 1024..(whole + 1) * 1024].iter().all(|&w| w == 1.0));
    assert!(mask[(1 - whole) * 1024..(2 - whole) * 1024].contains(&0.0));
    assert!(data.load_image(0, true).unwrap().mask.is_some() && data.load_image(1, true).unwrap().mask.is_none());
}

#[test]
fn of_two_masks_of_an_image_the_second_is_no_image_either() {
    let folder = Folder::with_images(1);
    for name in ["00-m.png", "00-m.bmp"] {
        mask_of_picture().save(folder.join(name)).unwrap();
    }
    let config = DataConfig {
        batch_size: 1,
        ..config(&folder, Subset { extra_images: vec![mask(None, "-m")], ..folder.subset() })
    };
    let data = DataSet::open(&config, 3, 64).unwrap();
    assert_eq!((data.images(), data.report().extra_images["mask"]), (1, 1));
    let [warning] = &data.report().warnings[..] else { panic!("{:?}", data.report().warnings) };
    assert!(warning.starts_with("1 `mask` images are left out") && warning.contains("00-m.png` beside"), "{warning}");
}

/// Images of a table, a shard or a Parquet file by the columns that hold them.
fn by_column(columns: &[(&str, &str)]) -> Vec<ExtraImages> {
    let extra = |&(column, source): &(&str, &str)| ExtraImages {
        column: column.to_owned(),
        source_column: Some(source.to_owned()),
        ..ExtraImages::default()
    };
    columns.iter().map(extra).collect()
}

#[test]
fn a_table_and_a_shard_have_masks_and_other_images_in_columns_of_their_own() {
    let folder = Folder::with_images(2);
    mask_of_picture().save(folder.join("m.png")).unwrap();
    let table = "file_name,text,weight_file_name,edges,depth\n00.png,a,m.png,00.png,01.png\n01.png,b,,01.png,00.png\n";
    folder.file("metadata.csv", table.as_bytes());
    let extra = |mask: &str| by_column(&[("mask", mask), ("control", "edges"), ("depth", "depth")]);
    let of_table = Subset { extra_images: extra("weight"), ..folder.subset() };
    let beside = first_batch(&config(&folder, of_table.clone()));

    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (first, second, mask) = (read("00.png"), read("01.png"), read("m.png"));
    let shards = Folder::new();
    shards.file(
        "a.tar",
        &crate::containers::tar_of(&[
            ("00.png", &first),
            ("00.txt", b"a"),
            ("00.mask.png", &mask),
            ("00.edges", &first),
            ("00.depth", &second),
            ("01.png", &second),
            ("01.txt", b"b"),
            ("01.edges", &second),
            ("01.depth", &first),
        ]),
    );
    let inside = first_batch(&config(&shards, Subset { extra_images: extra("mask.png"), ..shards.subset() }));

    for batch in [&beside, &inside] {
        let place = |image| batch.examples.iter().position(|example| example.image == image).unwrap();
        let weights = batch.mask.as_ref().unwrap().chunks_exact(1024).collect::<Vec<_>>();
        assert!(weights[place(0)].contains(&0.0) && weights[place(1)].iter().all(|&weight| weight == 1.0));
        assert_eq!(batch.extra_images["control"], batch.pixels);
        assert_ne!(batch.extra_images["depth"], batch.pixels);
    }
    assert_eq!(beside.extra_images, inside.extra_images);
    assert_eq!(beside.mask, inside.mask);

    let data = DataSet::open(&config(&folder, of_table), 3, 64).unwrap();
    assert!(data.report().warnings.join("\n").contains("1 images of"), "{:?}", data.report().warnings);
    let missing = |source| {
        DataSet::open(
            &config(&folder, Subset { extra_images: by_column(&[("mask", source)]), ..folder.subset() }),
            3,
            64,
        )
    };
    let error = missing("wieght").unwrap_err().to_string();
    assert!(error.contains("has no column `wieght`, which `extra_images` names"), "{error}");
}

#[test]
fn a_mask_is_taken_from_transparency() {
    let folder = Folder::new();
    let image = ImageBuffer::from_fn(32, 32, |x, _| Rgba([200, 10, 30, [0, 51, 255, 255][(x / 8) as usize]]));
    DynamicImage::ImageRgba8(image).save(folder.join("a.png")).unwrap();
    folder.image("b.png", &picture(32, 32, 3));
    folder.file("a.txt", b"a");
    folder.file("b.txt", b"b");
    let without = first_batch(&config(&folder, folder.subset()));
    assert_eq!(without.mask, None);
    let with = first_batch(&config(&folder, Subset { alpha_mask: true, ..folder.subset() }));
    assert_eq!(with.pixels, without.pixels);
    let a = with.examples.iter().position(|e| e.image == 0).unwrap();
    let mask = with.mask.unwrap();
    assert_eq!([0, 9, 17].map(|x| mask[a * 1024 + x]), [0.0, 0.2, 1.0]);
    assert!(mask[(1 - a) * 1024..(2 - a) * 1024].iter().all(|&w| w == 1.0));
}

#[test]
fn what_shows_through_is_chosen() {
    let folder = Folder::new();
    let image = ImageBuffer::from_pixel(32, 32, Rgba([200, 10, 30, 0]));
    DynamicImage::ImageRgba8(image).save(folder.join("a.png")).unwrap();
    folder.file("a.txt", b"a");
    let shown = |alpha: AlphaConfig| {
        let config = DataConfig { alpha, batch_size: 1, ..config(&folder, folder.subset()) };
        let pixels = first_batch(&config).pixels;
        [0, 1, 2].map(|c| ((pixels[c * 1024] + 1.0) * 127.5).round() as i32)
    };
    assert_eq!(shown(AlphaConfig::default()), [255, 255, 255]);
    assert_eq!(shown(AlphaConfig { background: [1, 2, 3], ignore: false }), [1, 2, 3]);
    assert_eq!(shown(AlphaConfig { ignore: true, ..AlphaConfig::default() }), [200, 10, 30]);
}

#[test]
fn control_images_come_in_step_and_by_name() {
    let folder = Folder::with_images(3);
    std::fs::create_dir(folder.join("edges")).unwrap();
    for index in 0..3 {
        // The same picture in another size and format, so that it must come out nearly the same.
        DynamicImage::from(picture(64, 48, index)).save(folder.join(&format!("edges/{index:02}.bmp"))).unwrap();
    }
    let control =
        ExtraImages { column: "control".to_owned(), path: Some(folder.join("edges")), ..ExtraImages::default() };
    let subset = Subset { flip: true, random_crop: true, extra_images: vec![control], ..folder.subset() };
    let batch = first_batch(&config(&folder, subset.clone()));
    assert_eq!(batch.extra_images.keys().collect::<Vec<_>>(), ["control"]);
    assert_eq!(batch.extra_images["control"], batch.pixels);

    std::fs::remove_file(folder.join("edges/01.bmp")).unwrap();
    let error = DataSet::open(&config(&folder, subset.clone()), 3, 64).unwrap_err();
    assert!(error.to_string().contains("1 of 3 images have no `control` image, the first is `"), "{error}");
    assert!(error.to_string().contains("01.png"), "{error}");
    std::fs::write(folder.join("edges/01.bmp"), b"BM").unwrap();
    let error = DataSet::open(&config(&folder, subset.clone()), 3, 64).unwrap_err().to_string();
    assert!(error.contains("its `control` image"), "{error}");
    DynamicImage::from(picture(48, 64, 1)).save(folder.join("edges/01.bmp")).unwrap();
    let error = DataSet::open(&config(&folder, subset.clone()), 3, 64).unwrap_err().to_string();
    assert!(error.contains("has 48 × 64 pixels, another shape than its own 64 × 48"), "{error}");
    for index in 0..3 {
        std::fs::remove_file(folder.join(&format!("edges/{index:02}.bmp"))).unwrap();
    }
    let error = DataSet::open(&config(&folder, subset), 3, 64).unwrap_err();
    assert!(error.to_string().contains("3 of 3 images have no `control` image"), "{error}");
    assert!(error.hint().unwrap().contains("edges/NAME.png"), "{error:?}");
}

#[test]
fn folders_named_for_their_repeats_find_their_masks_in_folders_of_the_same_names() {
    let folder = Folder::new();
    for name in ["2_cup", "3_bottle"] {
        folder.image(&format!("images/{name}/a.png"), &picture(64, 48, 0));
        mask_of_picture().save(folder.join("m.png")).unwrap();
        std::fs::create_dir_all(folder.join(&format!("masks/{name}"))).unwrap();
        std::fs::rename(folder.join("m.png"), folder.join(&format!("masks/{name}/a.png"))).unwrap();
    }
    let masks = vec![mask(Some(folder.join("masks")), "")];
    let subset = Subset { path: folder.join("images"), extra_images: masks, ..Subset::default() };
    let data = DataSet::open(&config(&folder, subset), 3, 64).unwrap();
    assert_eq!((data.images(), data.report().extra_images["mask"], data.report().visits_per_epoch), (2, 2, 5));
}

/// A picture before an edit, the picture after it and what was to be done, under the names of the InstructPix2Pix data sets.
#[test]
fn pairs_of_images_with_an_instruction_come_in_step() {
    let folder = Folder::new();
    let mut table = String::new();
    for index in 0..4 {
        let mut before = picture(128, 96, index);
        // The negative, so that one cannot be taken for the other.
        before.iter_mut().for_each(|value| *value = 255 - *value);
        folder.image(&format!("after/{index}.png"), &picture(64, 48, index));
        folder.image(&format!("before/{index}.bmp"), &before);
        table += &format!(
            "{{\"edited_image\": \"after/{index}.png\", \"original_image\": \"before/{index}.bmp\", \
             \"edit_prompt\": \"make it {index}\"}}\n"
        );
    }
    folder.file("metadata.jsonl", table.as_bytes());
    let named = |column: &str| Some(column.to_owned());
    let subset = Subset {
        image_column: named("edited_image"),
        caption_column: named("edit_prompt"),
        conditioning_image_column: named("original_image"),
        flip: true,
        random_crop: true,
        repeats: 6.0,
        ..folder.subset()
    };
    let data = DataSet::open(&config(&folder, subset), 3, 64).unwrap();
    assert_eq!((data.images(), data.report().extra_images[CONDITIONING_IMAGE]), (4, 4));
    let (mut mirrored, mut offsets) = (0, std::collections::BTreeSet::new());
    for plan in data.epoch_plan(0) {
        let batch = data.load(&plan, 0).unwrap();
        let before = &batch.extra_images[CONDITIONING_IMAGE];
        assert_eq!(before.len(), batch.pixels.len());
        for (place, example) in batch.examples.iter().enumerate() {
            mirrored += usize::from(example.flipped);
            offsets.insert(batch.crop_offsets[place]);
            assert_eq!(batch.captions[place], format!("make it {}", example.image));
        }
        // A pixel more to the side changes a value by 0.047; the two sizes make half of that at most.
        for (before, after) in before.iter().zip(&batch.pixels) {
            assert!((before + after).abs() < 0.03, "{before} is not the negative of {after}");
        }
    }
    assert!((4..20).contains(&mirrored) && offsets.len() > 4, "{mirrored} {offsets:?}");
}

#[test]
fn kernels_are_those_of_the_name() {
    let folder = Folder::new();
    let edge = image::RgbImage::from_fn(8, 8, |x, _| Rgb([if x < 4 { 50 } else { 200 }; 3]));
    folder.image("a.png", &edge);
    folder.file("a.txt", b"a");
    let row = |kernel: Option<ResizeKernel>, data_kernel: ResizeKernel| {
        let subset = Subset { resize_kernel: kernel, ..folder.subset() };
        let config = DataConfig { batch_size: 1, resize_kernel: data_kernel, ..config(&folder, subset) };
        let pixels = first_batch(&config).pixels;
        (0..32).map(|x| ((pixels[x] + 1.0) * 127.5).round() as i32).collect::<Vec<_>>()
    };
    let lanczos = row(Some(ResizeKernel::Lanczos), ResizeKernel::Nearest);
    assert_eq!(lanczos, row(None, ResizeKernel::Auto), "this image grows");
    assert!(lanczos.iter().any(|&v| v > 200));
    let bicubic = row(None, ResizeKernel::Bicubic);
    assert!(bicubic.iter().any(|&v| v > 200) && bicubic != lanczos);
    // Pillow 13.0.0: Image.resize((32, 32), BILINEAR) of the same row, around the edge.
    assert_eq!(row(None, ResizeKernel::Bilinear)[13..19], [50, 69, 106, 144, 181, 200]);
    for kernel in [ResizeKernel::Area, ResizeKernel::Nearest] {
        assert_eq!(row(None, kernel)[14..18], [50, 50, 200, 200]);
    }
}

#[test]
fn colours_change_with_the_visit_and_are_not_cached() {
    let folder = Folder::with_images(2);
    let color = ColorAugmentation { probability: 1.0, changes: ColorChanges::All, ..ColorAugmentation::default() };
    let still = config(&folder, folder.subset());
    let moving = config(&folder, Subset { color_augmentation: Some(color.clone()), ..folder.subset() });
    let data = DataSet::open(&moving, 3, 64).unwrap();
    let epoch = |epoch| data.load(&data.epoch_plan(epoch)[0], epoch).unwrap();
    assert_eq!(epoch(0), epoch(0));
    assert_ne!(epoch(0).pixels, first_batch(&still).pixels);
    assert_ne!(epoch(0).pixels, epoch(1).pixels);
    assert!(!data.is_cacheable() && DataSet::open(&still, 3, 64).unwrap().is_cacheable());
    let never = ColorAugmentation { probability: 0.0, ..color };
    let never = config(&folder, Subset { color_augmentation: Some(never), ..folder.subset() });
    assert!(DataSet::open(&never, 3, 64).unwrap().is_cacheable());
    assert_eq!(first_batch(&never), first_batch(&still));
    // What is held out is never changed.
    let (_, held_out) = DataSet::open_split(&DataConfig { batch_size: 1, ..moving }, 3, 64, 0.5).unwrap();
    assert!(held_out.is_cacheable());
}

#[test]
fn masks_come_without_pixels_where_latents_are_kept() {
    let folder = Folder::with_images(3);
    for index in 0..3 {
        mask_of_picture().save(folder.join(&format!("{index:02}-m.png"))).unwrap();
    }
    let subset = Subset { flip: true, repeats: 4.0, extra_images: vec![mask(None, "-m")], ..folder.subset() };
    let data = std::sync::Arc::new(DataSet::open(&config(&folder, subset), 3, 64).unwrap());
    assert!(data.has_masks());
    let (mut alone, mut mirrored) = (data.clone().prefetch_only(Contents::Masks, 0, 0, 2), 0);
    for plan in data.epoch_plan(0) {
        let (whole, alone) = (data.load(&plan, 0).unwrap(), alone.next().unwrap().unwrap());
        mirrored += whole.examples.iter().filter(|example| example.flipped).count();
        assert!(alone.pixels.is_empty() && whole.mask.is_some());
        assert_eq!(alone, HostBatch { pixels: Vec::new(), ..whole });
    }
    assert!((1..12).contains(&mirrored), "{mirrored}");
}

#[test]
fn images_without_masks_are_not_opened_for_them() {
    let folder = Folder::with_images(2);
    mask_of_picture().save(folder.join("00-m.png")).unwrap();
    let data =
        DataSet::open(&config(&folder, Subset { extra_images: vec![mask(None, "-m")], ..folder.subset() }), 3, 64);
    let data = data.unwrap();
    // What the mask belongs to is not looked at any more, as long as nobody wants its pixels.
    for name in ["00.png", "01.png"] {
        std::fs::write(folder.join(name), b"gone").unwrap();
    }
    let batch = data.load_only(Contents::Masks, &data.epoch_plan(0)[0], 0).unwrap();
    let weights = batch.mask.unwrap();
    assert!(weights.contains(&0.0) && data.unreadable().is_empty());
    let folder = Folder::with_images(2);
    assert!(!DataSet::open(&config(&folder, folder.subset()), 3, 64).unwrap().has_masks());
}

#[test]
fn a_mask_in_the_alpha_channel_is_read_without_the_pixels() {
    let folder = Folder::new();
    let image = ImageBuffer::from_fn(32, 32, |x, _| Rgba([200, 10, 30, [0, 51, 255, 255][(x / 8) as usize]]));
    DynamicImage::ImageRgba8(image).save(folder.join("a.png")).unwrap();
    folder.file("a.txt", b"a");
    let config = DataConfig { batch_size: 1, ..config(&folder, Subset { alpha_mask: true, ..folder.subset() }) };
    let data = DataSet::open(&config, 3, 64).unwrap();
    let batch = data.load_only(Contents::Masks, &data.epoch_plan(0)[0], 0).unwrap();
    assert!(data.has_masks() && batch.pixels.is_empty());
    assert_eq!(Some([0, 9, 17].map(|x| batch.mask.as_ref().unwrap()[x])), Some([0.0, 0.2, 1.0]));
}
