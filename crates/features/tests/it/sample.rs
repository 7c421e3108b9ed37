//! A tiny model, and a folder of images with captions, as tests need them.

use image::{Rgb, RgbImage};
use sdtrain_data_loader::DataSet;
use sdtrain_model::{LoadOptions, StableDiffusion, load};
use sdtrain_recipe::{BucketingConfig, DataConfig, Resolution, Subset};
use sdtrain_test_support::fixture_folder;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind};
use tempfile::TempDir;

pub fn model() -> StableDiffusion {
    model_in(Kind::Float)
}

pub fn model_in(compute: Kind) -> StableDiffusion {
    tiny("tiny_sd1", compute)
}

/// A model of the fixtures.
pub fn tiny(name: &str, compute: Kind) -> StableDiffusion {
    let folder = fixture_folder().join(name);
    load(&folder.display().to_string(), &LoadOptions::new(Device::Cpu, compute)).expect("a fixture")
}

/// `images/0.png` and so on, `count` of them, 32 × 32 pixels.
pub fn images(count: u8) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("images")).expect("a new folder");
    for index in 0..count {
        picture(index).save(path(folder.path(), index)).expect("there is room");
        fs::write(path(folder.path(), index).with_extension("txt"), format!("t, a{index}, b")).expect("there is room");
    }
    folder
}

pub fn picture(blue: u8) -> RgbImage {
    RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8 * 8, y as u8 * 8, blue.wrapping_mul(20)]))
}

pub fn path(folder: &Path, index: u8) -> PathBuf {
    folder.join(format!("images/{index}.png"))
}

/// With a cache in the folder, or without.
pub fn config(folder: &Path, cached: bool) -> DataConfig {
    DataConfig {
        resolution: Resolution::Square(32),
        bucketing: BucketingConfig { enabled: false, ..BucketingConfig::default() },
        subsets: vec![Subset { path: folder.join("images"), flip: true, ..Subset::default() }],
        cache_dir: cached.then(|| folder.join("cache")),
        ..DataConfig::default()
    }
}

pub fn data(config: &DataConfig) -> DataSet {
    DataSet::open(config, 1, 8).expect("images and captions")
}

/// Every file of a kind of entries in the cache, sorted.
pub fn entries(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for below in fs::read_dir(folder.join("cache").join(kind)).into_iter().flatten().flatten() {
        all.extend(fs::read_dir(below.path()).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    all.sort();
    all
}
