//! What goes wrong beside a step costs neither the run nor what it has learned.

use sdtrain_recipe::TrainConfig;
use sdtrain_signals::StopRequest;
use sdtrain_torch_test_support::fixture_folder;
use sdtrain_trainer::{Error, Outcome, ResumePolicy, RunOptions, train, train_unless};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Four pictures and a run of `steps` steps on them; `more` is TOML behind it.
pub fn config(folder: &TempDir, steps: u64, more: &str) -> TrainConfig {
    let images = folder.path().join("images");
    fs::create_dir_all(&images).expect("there is room");
    for number in 0..4u8 {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([number * 60, x as u8 * 8, y as u8 * 8]));
        picture.save(images.join(format!("{number}.png"))).expect("there is room");
        fs::write(images.join(format!("{number}.txt")), format!("poster {number}")).expect("there is room");
    }
    let model = fixture_folder().join("tiny_sd1").canonicalize().expect("a fixture");
    let text = format!(
        "name = \"run\"\n[model]\npath = \"{}\"\n[data]\nresolution = 32\nbatch_size = 2\n[[data.subsets]]\n\
         path = \"images\"\n[lora]\nrank = 2\n[train]\nmax_steps = {steps}\nthreads = 1\n[log]\ntensorboard = false\n{more}",
        model.display()
    );
    let file = folder.path().join("run.toml");
    fs::write(&file, text).expect("there is room");
    TrainConfig::load(&file, &[]).unwrap_or_else(|error| panic!("{error}")).config
}

/// Runs it, or continues what is there.
pub fn run(config: &TrainConfig, output: &Path) -> Result<Outcome, Error> {
    train(config.clone(), &RunOptions { output: output.into(), device: "cpu".into(), resume: ResumePolicy::Auto })
}

fn output(folder: &TempDir) -> PathBuf {
    folder.path().join("output")
}

/// kohya_ss#2999: pictures cost the checkpoint that was due.
#[test]
fn pictures_that_cannot_be_drawn_cost_neither_the_run_nor_a_checkpoint() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let samples = "[samples]\nprompts = [\"poster\"]\nsteps = 2\nevery_steps = 1\n[checkpoint]\nevery_steps = 1\nkeep_last = 9\n\
                   [ema]\nenabled = true\n";
    let config = config(&folder, 3, samples);
    run(&config, &output(&folder)).unwrap_or_else(|error| panic!("{error}"));
    let product = fs::read(output(&folder).join("run.safetensors")).expect("the product");
    let other = folder.path().join("other");
    fs::create_dir(&other).expect("there is room");
    // A file in the place of the folder refuses every picture.
    fs::write(other.join("samples"), "").expect("there is room");
    run(&config, &other).unwrap_or_else(|error| panic!("{error}"));
    for step in 1..=3 {
        assert!(other.join(format!("checkpoints/step-{step:06}")).is_dir(), "step {step}");
    }
    assert!(fs::read(other.join("run.safetensors")).expect("the product") == product);
}

/// kohya_ss#2999: sd-scripts draws first, and what ends a process while it draws costs the checkpoint that was due.
#[test]
fn a_checkpoint_is_there_before_its_pictures_are_drawn() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let samples = "[samples]\nprompts = [\"poster\"]\nsteps = 60\nevery_steps = 1\n[checkpoint]\nevery_steps = 1\nkeep_last = 9\n";
    let config = config(&folder, 3, samples);
    let output = output(&folder);
    // The folder of the pictures is made when the first of them is begun.
    let watched = output.clone();
    let watching = std::thread::spawn(move || {
        let saved_when_drawn = |step: u64| {
            while !watched.join(format!("samples/step-{step:06}")).exists() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            watched.join(format!("checkpoints/step-{step:06}/MANIFEST.json")).is_file()
        };
        [1, 2].map(saved_when_drawn)
    });
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(watching.join().expect("it ends"), [true, true]);
}

#[test]
fn data_that_vanish_in_the_middle_cost_no_step() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(&folder, 100_000, "[checkpoint]\nevery_steps = 0\n");
    config.data.cache_latents = false;
    let (images, away) = (folder.path().join("images"), folder.path().join("away"));
    let metrics = output(&folder).join("metrics.jsonl");
    let vanishing = std::thread::spawn(move || {
        while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 3 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        fs::rename(images, away).expect("the same disk");
    });
    let error = run(&config, &output(&folder)).expect_err("there is nothing to train on");
    vanishing.join().expect("it ends");
    assert!(matches!(error, Error::Data(_)), "{error}");
    let metrics = fs::read_to_string(output(&folder).join("metrics.jsonl")).expect("written");
    let last = output(&folder).join(format!("checkpoints/step-{:06}", metrics.lines().count()));
    assert!(last.is_dir(), "{} is the last step", last.display());
}

/// Its last step was skipped: batches after it are asked whether the weights are good, which may take long.
#[test]
fn a_run_that_is_asked_to_stop_before_its_last_weights_are_trusted_writes_no_product() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fault = "[debug]\nfaults = [{ step = 2, parameter = \"unet.conv_in.weight\" }]\n";
    let config = config(&folder, 2, fault);
    let output = output(&folder);
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    let product = output.join("run.safetensors");
    let content = fs::read(&product).expect("the product");
    // As if it had been killed behind its last checkpoint.
    fs::remove_file(output.join("run.json")).expect("written");
    fs::remove_file(&product).expect("written");
    let stop = StopRequest::never();
    stop.ask();
    let options = RunOptions { output: output.clone(), device: "cpu".into(), resume: ResumePolicy::Auto };
    let outcome = train_unless(&stop, config.clone(), &options).unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(outcome, Outcome::Stopped(2)), "{outcome:?}");
    assert!(!product.exists());
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert!(fs::read(&product).expect("the product") == content);
}
