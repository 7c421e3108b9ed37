//! Masks reach the loss the same with and without kept latents, and kept latents do not depend on them.

use image::{GrayImage, Luma, Rgb, RgbImage};
use sdtrain_recipe::TrainConfig;
use sdtrain_state_dict::{Reader, SafetensorsFile};
use sdtrain_torch_test_support::fixture_folder;
use sdtrain_trainer::{Outcome, ResumePolicy, RunOptions, train};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tch::{Kind, Tensor};
use tempfile::TempDir;

/// Three pictures, the first two with masks whose left third, or right half, counts.
fn project() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let posters = folder.path().join("posters");
    fs::create_dir(&posters).expect("there is room");
    for number in 0..3u8 {
        let picture = RgbImage::from_fn(32, 32, |x, y| Rgb([number * 60, x as u8 * 8, y as u8 * 8]));
        picture.save(posters.join(format!("{number}.png"))).expect("there is room");
        fs::write(posters.join(format!("{number}.txt")), "poster").expect("there is room");
    }
    write_mask(folder.path(), 0, |x| x < 11);
    write_mask(folder.path(), 1, |x| x >= 16);
    folder
}

fn write_mask(folder: &Path, number: u8, counts: impl Fn(u32) -> bool) {
    let mask = GrayImage::from_fn(32, 32, |x, _| Luma([if counts(x) { 255 } else { 0 }]));
    mask.save(folder.join(format!("posters/{number}-masklabel.png"))).expect("there is room");
}

/// The trace of two steps over all three pictures, with these overrides.
fn trace(folder: &Path, name: &str, changes: &[&str]) -> SafetensorsFile {
    let (file, trace) = (folder.join("run.toml"), folder.join(format!("{name}.safetensors")));
    let text = format!(
        "[model]\npath = \"{}\"\n[data]\nresolution = 32\nbatch_size = 3\n[[data.subsets]]\npath = \"posters\"\nflip = true\n\
         [[data.subsets.extra_images]]\ncolumn = \"mask\"\nsuffix = \"-masklabel\"\n[train]\nmax_steps = 4\n",
        fixture_folder().join("tiny_sd1").canonicalize().expect("a fixture").display()
    );
    fs::write(&file, text).expect("there is room");
    let mut overrides = vec![format!("debug.trace={}", trace.display()), "log.tensorboard=false".to_string()];
    overrides.extend(changes.iter().map(|change| change.to_string()));
    let config = TrainConfig::load(&file, &overrides).unwrap_or_else(|error| panic!("{error}")).config;
    let options = RunOptions { output: folder.join(name), device: "cpu".into(), resume: ResumePolicy::Never };
    let outcome = train(config, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    SafetensorsFile::open(&trace).expect("the run wrote it")
}

fn tensor(file: &SafetensorsFile, name: &str) -> Tensor {
    sdtrain_model::read_tensor(file, name, None, tch::Device::Cpu).unwrap_or_else(|error| panic!("{error}"))
}

fn assert_same(a: &SafetensorsFile, b: &SafetensorsFile, is_meant: impl Fn(&str) -> bool) {
    assert_eq!(a.names(), b.names());
    for name in a.names().into_iter().filter(|name| is_meant(name)) {
        assert!(tensor(a, name).equal(&tensor(b, name)), "{name}");
    }
}

/// Every file with the time it was written.
fn files_below(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the run made it").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.insert(path, entry.metadata().and_then(|data| data.modified()).expect("it is there"));
        }
    }
    found
}

#[test]
fn masks_are_the_same_beside_kept_latents() {
    let folder = project();
    let kept = trace(folder.path(), "kept", &[]);
    let encoded = trace(folder.path(), "encoded", &["data.cache_latents=false"]);
    // Masks to the bit; latents are equal to rounding, as they are encoded one by one or in batches.
    assert_same(&kept, &encoded, |name| name.ends_with(".mask") || name.ends_with(".noise"));
    let mask = tensor(&kept, "step.1.mask");
    assert_eq!(mask.size(), [3, 1, 8, 8]);
    // A third of 32 pixels is two latents and three quarters; half of them four; the picture without a mask is whole.
    let sums: Vec<f64> = (0..3).map(|row| mask.get(row).sum(Kind::Float).double_value(&[]) / 8.0).collect();
    let mut sorted = sums.clone();
    sorted.sort_by(f64::total_cmp);
    assert_eq!(sorted, [2.75, 4.0, 8.0]);
    let loss = |file: &SafetensorsFile, step| tensor(file, &format!("step.{step}.loss")).double_value(&[]);
    for step in 1..=4 {
        assert!((loss(&kept, step) / loss(&encoded, step) - 1.0).abs() < 1e-4, "{step}");
    }
    // Mirrored with their images: over four epochs the masks differ.
    let masks: Vec<Tensor> = (2..=4).map(|step| tensor(&kept, &format!("step.{step}.mask"))).collect();
    assert!(masks.iter().any(|other| !other.equal(&mask)));
}

#[test]
fn latents_on_disk_stay_when_a_mask_changes() {
    let folder = project();
    let cache = folder.path().join("cache");
    let change = format!("data.cache_dir={}", cache.display());
    let files = || files_below(&cache);
    let first = trace(folder.path(), "first", &[&change]);
    let written = files();
    assert!(written.len() >= 3, "{written:?}");
    write_mask(folder.path(), 0, |x| x < 24);
    let second = trace(folder.path(), "second", &[&change]);
    assert_eq!(written, files(), "an entry was made anew");
    assert_same(&first, &second, |name| name.ends_with(".latents"));
    assert!(!tensor(&first, "step.1.mask").equal(&tensor(&second, "step.1.mask")));
    assert!(!tensor(&first, "step.1.loss").equal(&tensor(&second, "step.1.loss")));
}

#[test]
fn images_are_trained_whole_as_often_as_asked() {
    let folder = project();
    let always = trace(folder.path(), "always", &["loss.unmasked_probability=1"]);
    let mask = tensor(&always, "step.1.mask");
    assert!(mask.equal(&mask.ones_like()));
}
