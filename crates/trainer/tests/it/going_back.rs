//! A run that is sent back to an earlier checkpoint, or to one of another folder, and does not come to its end: what lies in its folder
//! is of the steps that it goes on from.

use crate::failures::{config, run};
use sdtrain_recipe::TrainConfig;
use sdtrain_torch_test_support::copy_folder;
use sdtrain_trainer::{Error, Outcome, ResumePolicy, RunOptions, train};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const EVERY_STEP: &str = "[checkpoint]\nevery_steps = 1\nkeep_last = 99\n";

fn resume(config: &TrainConfig, output: &Path, from: &Path) -> Result<Outcome, Error> {
    let resume = ResumePolicy::From(from.into());
    train(config.clone(), &RunOptions { output: output.into(), device: "cpu".into(), resume })
}

/// The configuration of the project, with a weight that is no number in `step`, which ends the run before anything is saved.
fn failing_in(folder: &TempDir, step: u64) -> TrainConfig {
    let changes = [
        format!("debug.faults=[{{step = {step}, parameter = \"unet.conv_in.weight\"}}]"),
        "train.max_skipped_steps=0".to_owned(),
        "checkpoint.allow_changes=[\"debug.faults\"]".to_owned(),
    ];
    TrainConfig::load(&folder.path().join("run.toml"), &changes).unwrap_or_else(|error| panic!("{error}")).config
}

fn checkpoint(output: &Path, step: u64) -> PathBuf {
    output.join(format!("checkpoints/step-{step:06}"))
}

fn read(path: PathBuf) -> Vec<u8> {
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn latest(output: &Path) -> String {
    String::from_utf8(read(output.join("checkpoints/latest"))).expect("a name")
}

fn run_json(output: &Path) -> serde_json::Value {
    serde_json::from_slice(&read(output.join("run.json"))).expect("JSON")
}

#[test]
fn a_run_that_goes_back_and_is_cut_off_leaves_nothing_of_later_steps_under_its_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("output");
    let config = config(&folder, 3, &format!("{EVERY_STEP}[ema]\nenabled = true\nsave_raw = true\n"));
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    let products = ["run.safetensors", "run-raw.safetensors"];
    let straight = products.map(|name| read(output.join(name)));
    let error = resume(&failing_in(&folder, 2), &output, &checkpoint(&output, 1)).expect_err("its first step fails");
    assert!(matches!(error, Error::NotFinite { step: 2, .. }), "{error}");
    let aside = output.join("checkpoints-set-aside");
    for (name, content) in products.iter().zip(&straight) {
        assert!(!output.join(name).exists(), "{name}");
        assert!(read(aside.join(format!("{name}.1"))) == *content, "{name}");
    }
    assert_eq!(latest(&output), "step-000001\n");
    assert!(!checkpoint(&output, 2).exists() && aside.join("step-000003.1").is_dir());
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(run_json(&output)["resumed_step"], 1);
    assert!(products.map(|name| read(output.join(name))) == straight);
}

#[test]
fn a_run_that_begins_with_a_checkpoint_from_elsewhere_and_is_cut_off_goes_on_from_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    let config = config(&folder, 3, EVERY_STEP);
    run(&config, &first).unwrap_or_else(|error| panic!("{error}"));
    let carried = folder.path().join("carried/step-000002");
    copy_folder(&checkpoint(&first, 2), &carried);
    resume(&failing_in(&folder, 3), &second, &carried).expect_err("its first step fails");
    assert_eq!(latest(&second), "step-000002\n");
    fs::remove_dir_all(&carried).expect("it is there");
    run(&config, &second).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(run_json(&second)["resumed_step"], 2);
    assert!(read(second.join("run.safetensors")) == read(first.join("run.safetensors")));
}

/// The run's own checkpoint of that step is another one, and stays.
#[test]
fn a_checkpoint_from_elsewhere_does_not_replace_one_of_the_same_step() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    let config = config(&folder, 2, EVERY_STEP);
    for output in [&first, &second] {
        run(&config, output).unwrap_or_else(|error| panic!("{error}"));
    }
    // Two runs have two ids, which are in the manifests.
    let manifest = |checkpoint: PathBuf| read(checkpoint.join("MANIFEST.json"));
    let own = manifest(checkpoint(&second, 1));
    assert!(own != manifest(checkpoint(&first, 1)));
    resume(&config, &second, &checkpoint(&first, 1)).unwrap_or_else(|error| panic!("{error}"));
    assert!(manifest(second.join("checkpoints-set-aside/step-000001.1")) == own);
    assert!(manifest(checkpoint(&second, 1)) == manifest(checkpoint(&first, 1)));
    // A copy of the run's own is no other one.
    let carried = folder.path().join("carried/step-000001");
    copy_folder(&checkpoint(&second, 1), &carried);
    resume(&config, &second, &carried).unwrap_or_else(|error| panic!("{error}"));
    assert!(!second.join("checkpoints-set-aside/step-000001.2").exists());
}

/// The project's configuration with `steps` of them, which may change.
fn of_steps(folder: &TempDir, steps: u64) -> TrainConfig {
    let changes = [format!("train.max_steps={steps}"), "checkpoint.allow_changes=[\"train.max_steps\"]".to_owned()];
    TrainConfig::load(&folder.path().join("run.toml"), &changes).unwrap_or_else(|error| panic!("{error}")).config
}

#[test]
fn a_finished_run_without_a_whole_checkpoint_is_not_prolonged_and_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("output");
    let config = config(&folder, 1, "");
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    let product = read(output.join("run.safetensors"));
    fs::write(checkpoint(&output, 1).join("state.json"), "{").expect("it is there");
    for is_there in [true, false] {
        if !is_there {
            fs::remove_dir_all(output.join("checkpoints")).expect("it is there");
        }
        let error = run(&of_steps(&folder, 2), &output).expect_err("there is nothing to go on from");
        assert!(matches!(error, Error::CannotContinue { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("`train.max_steps`") && said.contains("no whole checkpoint to go on from"), "{said}");
        assert!(matches!(run(&config, &output), Ok(Outcome::AlreadyDone)));
        assert!(read(output.join("run.safetensors")) == product);
    }
}

#[test]
fn a_run_that_is_made_shorter_than_its_checkpoint_is_refused_by_the_step() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("output");
    let config = config(&folder, 4, EVERY_STEP);
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    let product = read(output.join("run.safetensors"));
    let mut epoch = of_steps(&folder, 4);
    // Two batches an epoch.
    (epoch.train.max_steps, epoch.train.max_epochs) = (None, Some(1));
    epoch.checkpoint.allow_changes = vec!["train".into()];
    for (shorter, end) in [(of_steps(&folder, 3), 3), (epoch, 2)] {
        let error = run(&shorter, &output).expect_err("step 4 is behind its end").to_string();
        assert!(error.contains("step-000004"), "{error}");
        assert!(error.contains(&format!("is of step 4, behind the end ({end})")), "{error}");
        assert!(error.contains("`--resume PATH`"), "{error}");
        assert!(read(output.join("run.safetensors")) == product);
    }
    resume(&of_steps(&folder, 3), &output, &checkpoint(&output, 2)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(run_json(&output)["steps"], 3);
}

#[test]
fn a_file_of_the_user_with_a_date_in_its_name_is_no_product_of_a_late_epoch() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("output");
    let config = config(&folder, 3, &format!("{EVERY_STEP}[save]\nevery_steps = 1\n"));
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    let own = ["run-20261122", "run-261122", "run-step20261122"].map(|name| output.join(format!("{name}.safetensors")));
    for path in &own {
        fs::write(path, "the user's").expect("there is room");
    }
    let product = output.join("run-step00000001.safetensors");
    fs::remove_file(&product).expect("it was written");
    resume(&config, &output, &checkpoint(&output, 1)).unwrap_or_else(|error| panic!("{error}"));
    assert!(product.is_file(), "it was due, and none of a later step is there");
    assert!(output.join("checkpoints-set-aside/run-step00000002.safetensors.1").is_file());
    assert!(own.iter().all(|path| path.is_file()));
}
