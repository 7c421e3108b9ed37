//! Latents in memory and in a folder.

use crate::sample::{config, data, entries, images, model, path, picture};
use sdtrain_data_loader::DataSet;
use sdtrain_features::{Error, LatentCache};
use sdtrain_model::StableDiffusion;
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};

const ALL: [(usize, bool); 6] = [(0, false), (1, false), (2, false), (0, true), (1, true), (2, true)];

fn noise() -> Tensor {
    Tensor::arange(6 * 4 * 8 * 8, (Kind::Float, Device::Cpu)).reshape([6, 4, 8, 8]).sin()
}

/// Fills the cache; how many images were encoded.
fn filled<'d>(
    model: &StableDiffusion,
    data: &'d DataSet,
    folder: &Path,
    cached: bool,
) -> (LatentCache<&'d DataSet>, usize) {
    let mut made = 0;
    let cache = LatentCache::fill(model, data, &config(folder, cached), "images", &mut |done, _| made = done);
    (cache.expect("an encoder and room"), made)
}

#[test]
fn latents_from_disk_are_those_from_memory_and_are_made_once() {
    let (folder, model) = (images(3), model());
    let data = data(&config(folder.path(), false));
    let (memory, _) = filled(&model, &data, folder.path(), false);
    let (fresh, made) = filled(&model, &data, folder.path(), true);
    let (read, again) = filled(&model, &data, folder.path(), true);
    assert_eq!((made, again, entries(folder.path(), "latents").len()), (3, 0, 3));
    let expected = memory.latents(&model, &ALL, &noise()).unwrap();
    for disk in [fresh, read] {
        assert!(disk.latents(&model, &ALL, &noise()).unwrap().equal(&expected));
    }
    // Six pictures, none of them like another: each image and each side has its own.
    let [first, mirrored] = [0, 3].map(|index| expected.get(index));
    assert!(!first.equal(&mirrored));
}

#[test]
fn what_is_damaged_deleted_or_edited_is_made_again() {
    let (folder, model) = (images(3), model());
    let data_set = data(&config(folder.path(), true));
    let (cache, _) = filled(&model, &data_set, folder.path(), true);
    let expected = cache.latents(&model, &ALL, &noise()).unwrap();
    let files = entries(folder.path(), "latents");
    let whole = fs::read(&files[0]).unwrap();
    fs::write(&files[0], &whole[..whole.len() - 1]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    assert!(cache.latents(&model, &ALL, &noise()).unwrap().equal(&expected), "in the midst of a run");
    assert_eq!(entries(folder.path(), "latents"), files);
    assert_eq!(fs::read(&files[0]).unwrap(), whole);

    fs::write(&files[0], &whole[..100]).unwrap();
    assert_eq!(filled(&model, &data_set, folder.path(), true).1, 1, "at the next start");
    assert_eq!(fs::read(&files[0]).unwrap(), whole);
    picture(9).save(path(folder.path(), 1)).unwrap();
    let changed = data(&config(folder.path(), true));
    assert_eq!(filled(&model, &changed, folder.path(), true).1, 1, "the picture that was edited");
    assert_eq!(entries(folder.path(), "latents").len(), 4);
    // The run that began before the edit does not put the new picture under the old one's name.
    for file in files {
        fs::remove_file(file).unwrap();
    }
    let error = cache.latents(&model, &ALL, &noise()).unwrap_err();
    assert!(error.to_string().contains("1.png` was changed since the run began"), "{error}");
}

#[test]
fn copies_of_an_image_are_encoded_once() {
    let (folder, model) = (images(3), model());
    let alone = data(&config(folder.path(), false));
    let (expected, _) = filled(&model, &alone, folder.path(), false);
    for copy in [3, 4] {
        for ending in ["png", "txt"] {
            let file = |image| path(folder.path(), image).with_extension(ending);
            fs::copy(file(0), file(copy)).unwrap();
        }
    }
    let copied = data(&config(folder.path(), true));
    let (cache, made) = filled(&model, &copied, folder.path(), true);
    assert_eq!((made, entries(folder.path(), "latents").len()), (3, 3));
    for copy in [0, 3, 4] {
        let of_copy = [(copy, false), (1, false), (2, false), (copy, true), (1, true), (2, true)];
        let [found, expected] = [(&cache, &of_copy), (&expected, &ALL)]
            .map(|(cache, wanted)| cache.latents(&model, wanted, &noise()).unwrap());
        assert!(found.equal(&expected), "{copy}");
    }
}

/// kohya_ss#2244, kohya_ss#2674, kohya_ss#1908, kohya_ss#1103, sd-scripts#653: the first image of a batch is named. Here the first layer
/// of the autoencoder overflows for red pictures alone.
#[test]
fn of_several_images_the_one_whose_latents_are_not_finite_is_named() {
    let (folder, model) = (images(3), model());
    for index in 0..3 {
        let red = if index == 1 { 255 } else { 0 };
        image::RgbImage::from_pixel(32, 32, image::Rgb([red, 90, 90])).save(path(folder.path(), index)).unwrap();
    }
    let of_first_layer = |name: &str| {
        model.vae.parameters().get(&format!("encoder.conv_in.{name}")).expect("it has an encoder").shallow_clone()
    };
    // Red −1 becomes 0 and red 1 twice the half of what fp32 can hold, and more.
    tch::no_grad(|| {
        let weight = of_first_layer("weight");
        let _ = weight.shallow_clone().zero_();
        let _ = weight.select(1, 0).select(1, 1).select(1, 1).fill_(3e38);
        let _ = of_first_layer("bias").fill_(3e38);
    });
    for cached in [false, true] {
        let config = config(folder.path(), cached);
        let data = data(&config);
        let filled = LatentCache::fill(&model, &data, &config, "images", &mut |_, _| {});
        let error = filled.err().expect("one of them overflows");
        match &error {
            Error::LatentsNotFinite { image } => assert_eq!(image, &path(folder.path(), 1)),
            other => panic!("{other}"),
        }
        assert!(error.to_string().contains("1.png` are not finite"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("`model.vae`") && hint.contains("`precision.compute`")));
    }
    assert!(entries(folder.path(), "latents").len() < 3, "what is not finite is not kept");
}

#[test]
fn an_image_that_cannot_be_decoded_has_none() {
    let (folder, model) = (images(200), model());
    let broken = path(folder.path(), 7);
    let whole = fs::read(&broken).unwrap();
    // Its header and its end are fine.
    let mut bytes = whole.clone();
    let middle = whole.len() / 2;
    bytes[middle..middle + 8].fill(0);
    fs::write(&broken, bytes).unwrap();
    for cached in [false, true, true] {
        let data = data(&config(folder.path(), cached));
        let index = (0..data.images()).find(|&image| data.path(image) == broken).expect("its header is fine");
        let (cache, _) = filled(&model, &data, folder.path(), cached);
        let without: Vec<usize> = (0..data.images()).filter(|&image| !cache.has(image)).collect();
        assert_eq!(without, [index], "{cached}");
        assert_eq!(data.unreadable().len(), 1);
    }
}
