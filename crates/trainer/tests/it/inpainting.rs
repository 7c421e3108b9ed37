//! What a UNet for inpainting is shown in training: the mask, and of the picture what the mask leaves.

use image::{GrayImage, Luma, Rgb, RgbImage};
use sdtrain_recipe::TrainConfig;
use sdtrain_state_dict::SafetensorsFile;
use sdtrain_torch_test_support::{fixture_folder, write_inpainting_folder};
use sdtrain_trainer::{Outcome, ResumePolicy, RunOptions, train};
use std::fs;
use std::path::Path;
use tch::{Kind, Tensor};
use tempfile::TempDir;

/// The mask of both pictures covers what lies left of this.
const COVERED: u32 = 16;

/// Two pictures, of which the first one is lighter on one side by so much.
fn project(left: u8, right: u8) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_inpainting_folder("tiny_sd1", &folder.path().join("model"));
    let posters = folder.path().join("posters");
    fs::create_dir(&posters).expect("there is room");
    for number in 0..2u8 {
        let picture = RgbImage::from_fn(32, 32, |x, y| {
            let lighter = if number > 0 {
                0
            } else if x < COVERED {
                left
            } else {
                right
            };
            Rgb([number * 60 + lighter, x as u8 * 4, y as u8 * 8])
        });
        picture.save(posters.join(format!("{number}.png"))).expect("there is room");
        fs::write(posters.join(format!("{number}.txt")), "poster").expect("there is room");
        // 128 is half white, which counts as white; 127 does not.
        let mask = GrayImage::from_fn(32, 32, |x, _| Luma([if x < COVERED { 128 } else { 127 }]));
        mask.save(posters.join(format!("{number}-mask.png"))).expect("there is room");
    }
    let text = "method = \"inpainting\"\n[model]\npath = \"model\"\n[data]\nresolution = 32\nbatch_size = 2\n\
                [[data.subsets]]\npath = \"posters\"\n[[data.subsets.extra_images]]\ncolumn = \"mask\"\nsuffix = \"-mask\"\n\
                [full]\ntargets = [\"unet.conv_in.*\"]\n[train]\nmax_steps = 2\n[checkpoint]\nevery_steps = 1\nkeep_last = 9\n\
                [log]\ntensorboard = false\n[debug]\ntrace_steps = 2\n";
    fs::write(folder.path().join("run.toml"), text).expect("there is room");
    folder
}

const FILES: &str = "inpainting.masks=files";

fn config(folder: &Path, name: &str, changes: &[&str]) -> TrainConfig {
    let mut overrides = vec![
        format!("model.path={}", folder.join("model").display()),
        format!("debug.trace={}", folder.join(format!("{name}.safetensors")).display()),
    ];
    overrides.extend(changes.iter().map(|change| change.to_string()));
    TrainConfig::load(&folder.join("run.toml"), &overrides).unwrap_or_else(|error| panic!("{error}")).config
}

/// The trace of the two steps of a run.
fn trace(folder: &Path, name: &str, changes: &[&str]) -> SafetensorsFile {
    run(folder, name, changes, ResumePolicy::Never);
    SafetensorsFile::open(folder.join(format!("{name}.safetensors"))).expect("the run wrote it")
}

/// The product of a run, in bytes.
fn run(folder: &Path, name: &str, changes: &[&str], resume: ResumePolicy) -> Vec<u8> {
    let options = RunOptions { output: folder.join(name), device: "cpu".into(), resume };
    match train(config(folder, name, changes), &options) {
        Ok(Outcome::Done(product)) => fs::read(&product[0]).expect("the run wrote it"),
        other => panic!("{name}: {other:?}"),
    }
}

/// What the first step was given.
fn given(trace: &SafetensorsFile, name: &str) -> Tensor {
    let found = sdtrain_model::read_tensor(trace, &format!("step.1.{name}"), None, tch::Device::Cpu);
    found.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_unet_is_shown_the_mask_and_nothing_of_what_it_covers() {
    let channels = |left: u8, right: u8, name: &str| {
        let folder = project(left, right);
        let trace = trace(folder.path(), name, &[FILES]);
        (given(&trace, "mask_channels"), given(&trace, "latents"))
    };
    let (plain, plain_latents) = channels(0, 0, "plain");
    assert_eq!(plain.size(), [2, 5, 8, 8]);
    let mask = plain.narrow(1, 0, 1);
    let half = Tensor::cat(
        &[Tensor::ones([2, 1, 8, 4], (Kind::Float, tch::Device::Cpu)), mask.zeros_like().narrow(3, 0, 4)],
        3,
    );
    assert!(mask.equal(&half), "white is covered");
    let (covered, covered_latents) = channels(90, 0, "covered");
    assert!(plain.equal(&covered), "what is covered shows");
    assert!(!plain_latents.equal(&covered_latents), "but is what is to be learned");
    let (left, _) = channels(0, 90, "left");
    assert!(!plain.equal(&left), "what is not covered does not show");
    assert!(left.narrow(1, 0, 1).equal(&mask));
}

#[test]
fn masks_for_inpainting_are_no_loss_masks() {
    let folder = project(0, 0);
    let names = |changes: &[&str]| {
        let trace = trace(folder.path(), "names", changes);
        sdtrain_state_dict::Reader::names(&trace).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let loss_mask = "step.1.mask".to_owned();
    assert!(!names(&[FILES]).contains(&loss_mask));
    // With masks that are drawn those of the files are what they are with other methods.
    assert!(names(&[]).contains(&loss_mask));
}

#[test]
fn drawn_masks_are_the_same_beside_kept_latents_and_after_a_checkpoint() {
    let folder = project(0, 0);
    let whole = ["inpainting.whole_probability=0"];
    let kept = trace(folder.path(), "kept", &whole);
    let encoded = trace(folder.path(), "encoded", &[whole[0], "data.cache_latents=false"]);
    assert!(given(&kept, "mask_channels").equal(&given(&encoded, "mask_channels")));
    let mask = given(&kept, "mask_channels").narrow(1, 0, 1);
    assert!(!mask.get(0).equal(&mask.get(1)), "each example has its own");
    let product = run(folder.path(), "again", &whole, ResumePolicy::Never);
    let continued = ResumePolicy::From(folder.path().join("again/checkpoints/step-000001"));
    assert!(run(folder.path(), "again", &whole, continued) == product, "continued it becomes another product");
}

#[test]
fn a_model_that_does_not_fit_the_method_is_refused_with_a_way_out() {
    let folder = project(0, 0);
    let refused = |changes: &[&str]| {
        let options =
            RunOptions { output: folder.path().join("no"), device: "cpu".into(), resume: ResumePolicy::Never };
        match train(config(folder.path(), "no", changes), &options) {
            Err(sdtrain_trainer::Error::Config { message, hint }) => (message, hint.expect("there is a way out")),
            other => panic!("{other:?}"),
        }
    };
    let plain = fixture_folder().join("tiny_sd1").canonicalize().expect("a fixture").display().to_string();
    let (message, hint) = refused(&[&format!("model.path={plain}")]);
    assert!(message.ends_with("has 4") && message.contains("9 input channels"), "{message}");
    assert!(hint.contains(&format!("`sdtrain convert {plain} OUT --to diffusers --inpainting`")), "{hint}");
    let (message, hint) = refused(&["method=lora"]);
    assert!(message.contains("is made for inpainting, and `method = \"lora\"` has no masks for it"), "{message}");
    assert!(hint.contains("`method = \"inpainting\"` and `trainable = \"lora\"`"), "{hint}");
}
