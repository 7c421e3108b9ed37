//! What SDXL is told of cut pictures comes from the pictures, whether their latents are made in the steps, in memory or on disk.

use sdtrain_recipe::TrainConfig;
use sdtrain_state_dict::SafetensorsFile;
use sdtrain_torch_test_support::fixture_folder;
use sdtrain_trainer::{Outcome, ResumePolicy, RunOptions, train};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use tch::Device;
use tempfile::TempDir;

const STEPS: u64 = 16;

/// Where latents may be: made in each step, kept in memory, kept in the folder `cache`.
const WAYS: [(&str, bool); 3] =
    [("data.cache_latents=false", false), ("data.cache_latents=true", false), ("data.cache_latents=true", true)];

/// Pictures of these sizes (width, height) for a run at 64 × 32 pixels, all of them in each step.
fn project(sizes: &[(u32, u32)], flip: bool) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let images = folder.path().join("images");
    fs::create_dir(&images).expect("a new folder");
    for (number, &(width, height)) in sizes.iter().enumerate() {
        let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, number as u8 * 80]));
        picture.save(images.join(format!("{number}.png"))).expect("there is room");
        fs::write(images.join(format!("{number}.txt")), "poster").expect("there is room");
    }
    let model = fixture_folder().join("tiny_sdxl").canonicalize().expect("a fixture");
    let text = format!(
        "[model]\npath = \"{}\"\n[data]\nresolution = [64, 32]\nbatch_size = {}\n[data.bucketing]\nenabled = false\n\
         [[data.subsets]]\npath = \"images\"\nflip = {flip}\n[lora]\nrank = 2\n[train]\nmax_steps = {STEPS}\n[log]\n\
         tensorboard = false\n[debug]\ntrace_steps = {STEPS}\n",
        model.display(),
        sizes.len()
    );
    fs::write(folder.path().join("run.toml"), text).expect("there is room");
    folder
}

/// The rows of `time_ids` of each step, with latents kept in one of the `WAYS`.
fn time_ids(folder: &Path, (cache_latents, on_disk): (&str, bool)) -> Vec<Vec<Vec<f32>>> {
    let name = format!("{cache_latents} {on_disk}");
    let trace = folder.join("trace.safetensors");
    let mut changes = vec![cache_latents.to_owned(), format!("debug.trace={}", trace.display())];
    if on_disk {
        changes.push(format!("data.cache_dir={}", folder.join("cache").display()));
    }
    let config = TrainConfig::load(&folder.join("run.toml"), &changes).unwrap_or_else(|error| panic!("{error}")).config;
    let options = RunOptions { output: folder.join(&name), device: "cpu".into(), resume: ResumePolicy::Never };
    let outcome = train(config, &options);
    assert!(matches!(outcome, Ok(Outcome::Done(_))), "{name}: {outcome:?}");
    assert_eq!(folder.join("cache/latents").is_dir(), on_disk, "{name}");
    let trace = SafetensorsFile::open(&trace).expect("the run wrote it");
    let of_step = |step: u64| {
        let ids = sdtrain_model::read_tensor(&trace, &format!("step.{step}.time_ids"), None, Device::Cpu);
        let ids = ids.unwrap_or_else(|error| panic!("{name}: {error}"));
        Vec::<Vec<f32>>::try_from(ids).expect("a row of numbers for each picture")
    };
    (1..=STEPS).map(of_step).collect()
}

#[test]
fn sdxl_is_told_the_sizes_of_cut_pictures_wherever_latents_are_kept() {
    // Too wide; too high; too wide and twice as large: (100, 32) once it is scaled, of which the middle is cut.
    let project = project(&[(100, 32), (64, 80), (200, 64)], false);
    // `[original_h, original_w, crop_top, crop_left, target_h, target_w]`, sorted.
    let expected: [[f32; 6]; 3] = [
        [32.0, 100.0, 0.0, 18.0, 32.0, 64.0],
        [64.0, 200.0, 0.0, 18.0, 32.0, 64.0],
        [80.0, 64.0, 24.0, 0.0, 32.0, 64.0],
    ];
    let ways = WAYS.map(|way| time_ids(project.path(), way));
    for (way, steps) in WAYS.iter().zip(&ways) {
        assert!(*steps == ways[0], "{way:?}: another order than without a cache");
        for rows in steps {
            let mut rows = rows.clone();
            rows.sort_by(|a, b| a.partial_cmp(b).expect("whole numbers"));
            assert_eq!(rows, expected, "{way:?}");
        }
    }
}

#[test]
fn the_offset_of_a_mirrored_picture_is_mirrored_wherever_latents_are_kept() {
    // 31 columns too wide: 15 are cut off on the left, and 16 where the picture is mirrored.
    let project = project(&[(95, 32)], true);
    let ways = WAYS.map(|way| time_ids(project.path(), way));
    let offsets: BTreeSet<i64> = ways[0].iter().flatten().map(|row| row[3] as i64).collect();
    assert_eq!(offsets, BTreeSet::from([15, 16]), "half of 16 visits are mirrored");
    assert!(ways[1] == ways[0], "in memory");
    assert!(ways[2] == ways[0], "on disk");
}
