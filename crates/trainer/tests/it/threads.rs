//! What users of other trainers reported, each test under the name of the thread; docs/reliability.md lists them with those that
//! stand elsewhere.

use crate::failures::{config, run};
use sdtrain_recipe::{FaultyNumber, TrainConfig, WeightFault};
use sdtrain_trainer::{Error, ResumePolicy, RunOptions, train};
use std::fs;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const EVERY_STEP: &str = "[checkpoint]\nevery_steps = 1\nkeep_last = 99\n";

fn project(steps: u64) -> (TempDir, PathBuf, TrainConfig) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("output");
    let config = config(&folder, steps, EVERY_STEP);
    (folder, output, config)
}

fn done(config: &TrainConfig, output: &Path) {
    run(config, output).unwrap_or_else(|error| panic!("{error}"));
}

fn checkpoint(output: &Path, step: u64) -> PathBuf {
    output.join(format!("checkpoints/step-{step:06}"))
}

/// As if the run had been killed after `step`.
fn cut_back(output: &Path, step: u64) {
    let _ = fs::remove_file(output.join("run.json"));
    let _ = fs::remove_file(output.join("run.safetensors"));
    (step + 1..100).for_each(|later| drop(fs::remove_dir_all(checkpoint(output, later))));
}

/// A column of `metrics.jsonl`.
fn column(output: &Path, name: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(output.join("metrics.jsonl")).expect("written");
    text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")[name].take()).collect()
}

fn fault(step: u64) -> WeightFault {
    WeightFault { step, pass: None, parameter: "unet.conv_in.weight".into(), value: FaultyNumber::Nan }
}

/// sd-scripts#201, sd-scripts#293, sd-scripts#1571, kohya_ss#1112, kohya_ss#1986, musubi-tuner#26: NaN until the end, and NaN saved.
#[test]
fn sd_scripts_201_a_run_without_a_finite_loss_ends_and_leaves_no_product() {
    let (_folder, output, mut config) = project(8);
    config.train.max_skipped_steps = 3;
    config.debug.faults = (1..=8).map(fault).collect();
    let error = run(&config, &output).expect_err("nothing was learned");
    assert!(matches!(error, Error::NotFinite { step: 4, .. }), "{error}");
    assert!(!output.join("run.safetensors").exists());
}

/// ai-toolkit: a loss of NaN becomes 0.
#[test]
fn ai_toolkit_a_loss_that_is_no_number_is_not_written_as_zero() {
    let (_folder, output, mut config) = project(3);
    config.debug.faults = vec![fault(2)];
    done(&config, &output);
    let losses = column(&output, "loss");
    assert!(losses[0].as_f64().is_some_and(|loss| loss > 0.0) && losses[2].is_number(), "{losses:?}");
    assert!(losses[1].as_f64().is_none(), "{losses:?}");
}

#[test]
fn torchtitan_aborts_and_what_the_step_was_made_of_is_kept() {
    let (_folder, output, mut config) = project(3);
    config.debug.faults = vec![fault(2)];
    done(&config, &output);
    let evidence = fs::read(output.join("not-finite/step-000002.json")).expect("written");
    let evidence: serde_json::Value = serde_json::from_slice(&evidence).expect("JSON");
    let pass = &evidence["passes"][0];
    assert_eq!((&evidence["step"], &evidence["seed"], &pass["pass"]), (&2.into(), &config.seed.into(), &1.into()));
    assert_eq!(pass["timesteps"].as_array().map(Vec::len), Some(2));
    assert!(pass["images"][0]["path"].as_str().is_some_and(|path| path.ends_with(".png")), "{evidence}");
    // The weights were good, and no gradient was a number behind the one that was damaged.
    let modules = evidence["largest_of_modules"].as_object().expect("one entry a module");
    assert!(modules.len() > 10 && modules.values().all(|module| module["weight"].is_number()), "{evidence}");
    assert!(modules.values().any(|module| module["gradient"] == "NaN"), "{evidence}");
}

/// sd-scripts#141, sd-scripts#1110, kohya_ss#1924: the rate after a continuation is another.
#[test]
fn sd_scripts_141_after_a_continuation_the_rate_is_that_of_the_configuration() {
    let (folder, output, config) = project(6);
    done(&config, &output);
    cut_back(&output, 3);
    let changes = ["optimizer.learning_rate=2e-5".to_string(), "checkpoint.allow_changes=[\"optimizer\"]".to_string()];
    let changed = TrainConfig::load(&folder.path().join("run.toml"), &changes);
    done(&changed.unwrap_or_else(|error| panic!("{error}")).config, &output);
    let rates: Vec<f64> = column(&output, "lr").iter().map(|lr| lr["unet"].as_f64().expect("a rate")).collect();
    assert_eq!(rates, [1e-4, 1e-4, 1e-4, 2e-5, 2e-5, 2e-5]);
}

/// the_well#63, the_well#77: the warm-up and the fall of the rate begin again.
#[test]
fn the_well_63_after_a_continuation_the_schedule_goes_on_where_it_was() {
    let (folder, output, _) = project(8);
    let schedule = ["lr_schedule.type=cosine".to_string(), "lr_schedule.warmup_steps=4".to_string()];
    let config = TrainConfig::load(&folder.path().join("run.toml"), &schedule);
    let config = config.unwrap_or_else(|error| panic!("{error}")).config;
    done(&config, &output);
    let rates = column(&output, "lr");
    let rate = |index: usize| rates[index]["unet"].as_f64().expect("a rate");
    assert!(rate(0) < rate(2) && rate(4) > rate(7), "{rates:?}");
    for step in [2, 6] {
        cut_back(&output, step);
        done(&config, &output);
        assert_eq!(column(&output, "lr"), rates, "continued after step {step}");
    }
}

/// accelerate#4203, transformers#46628, torchtitan#2864, lerobot#3769, transgenic#59, Real-ESRGAN#799: the order of the data is replayed or
/// another one after a continuation.
#[test]
fn torchtitan_2864_later_epochs_are_shuffled_alike_after_a_continuation() {
    let (_folder, output, mut config) = project(9);
    config.data.batch_size = 1;
    done(&config, &output);
    let losses = column(&output, "loss");
    for step in [1, 4, 6] {
        let last = checkpoint(&output, 9);
        assert!(last.is_dir());
        cut_back(&output, step);
        done(&config, &output);
        assert_eq!(column(&output, "loss"), losses, "continued after step {step}, four an epoch");
    }
}

/// tinker-feedback#127, OpenNMT#617: the optimizer or the loss scale is not restored, and nobody is told.
#[test]
fn tinker_feedback_127_a_checkpoint_without_its_optimizer_is_refused() {
    let (folder, output, config) = project(3);
    let lion = TrainConfig::load(&folder.path().join("run.toml"), &["optimizer.type=lion".to_string()]);
    done(&lion.unwrap_or_else(|error| panic!("{error}")).config, &output);
    cut_back(&output, 2);
    let allowed = vec!["optimizer".into()];
    let config = TrainConfig {
        checkpoint: sdtrain_recipe::CheckpointConfig { allow_changes: allowed, ..config.checkpoint.clone() },
        ..config
    };
    // AdamW keeps a second mean that Lion has not.
    let error = run(&config, &output).expect_err("half of its state would be lost");
    assert!(matches!(&error, Error::CannotContinue { reason, .. } if reason.contains("optimizer state")), "{error}");
    assert!(!checkpoint(&output, 3).exists());
}

/// The same where every name that the new rule looks for is there: what AdamW keeps is something else to Lion.
#[test]
fn tinker_feedback_127_what_another_rule_has_kept_is_refused_although_its_names_fit() {
    let (folder, output, config) = project(3);
    done(&config, &output);
    cut_back(&output, 2);
    for (setting, section) in [
        ("optimizer.type=lion", "optimizer"),
        ("precision.weights=bf16", "precision"),
        ("precision.optimizer_state=bf16", "precision"),
    ] {
        let settings = [setting.to_string(), format!("checkpoint.allow_changes=[\"{section}\"]")];
        let changed = TrainConfig::load(&folder.path().join("run.toml"), &settings);
        let error = run(&changed.unwrap_or_else(|error| panic!("{error}")).config, &output).expect_err("another state");
        let key = setting.split('=').next().expect("a key");
        assert!(matches!(&error, Error::CannotContinue { reason, .. } if reason.contains(key)), "{setting}: {error}");
        assert!(!checkpoint(&output, 3).exists(), "{setting}");
    }
}

/// diffusers, OneTrainer: a continuation from nothing begins anew.
#[test]
fn one_trainer_a_continuation_from_nothing_is_no_fresh_start() {
    let (folder, output, config) = project(2);
    let resume = ResumePolicy::From(folder.path().join("nothing/step-000001"));
    let options = RunOptions { output: output.clone(), device: "cpu".into(), resume };
    assert!(train(config, &options).is_err());
    assert!(!output.join("run.safetensors").exists() && !output.join("checkpoints/latest").exists());
}

/// musubi-tuner#29, musubi-tuner#49: wrong weights are loaded without a word.
#[test]
fn musubi_tuner_29_weights_of_another_size_are_refused_by_name() {
    let (_folder, output, mut config) = project(3);
    done(&config, &output);
    cut_back(&output, 2);
    config.lora.rank = 3;
    config.checkpoint.allow_changes = vec!["lora".into()];
    let error = run(&config, &output).expect_err("other matrices");
    assert!(matches!(&error, Error::CannotContinue { reason, .. } if reason.contains("lora_")), "{error}");
}

/// SimpleTuner#2714, torchtune#1018: a file that others have mapped is written into.
#[test]
fn simple_tuner_2714_a_product_takes_the_place_of_another_and_is_not_written_into_it() {
    let (_folder, output, mut config) = project(3);
    done(&config, &output);
    let path = output.join("run.safetensors");
    let mut opened = fs::File::open(&path).expect("the product");
    let before = fs::read(&path).expect("the product");
    config.train.max_steps = Some(5);
    config.checkpoint.allow_changes = vec!["train.max_steps".into()];
    done(&config, &output);
    assert!(fs::read(&path).expect("the product") != before, "two more steps");
    let mut seen = Vec::new();
    opened.rewind().and_then(|()| opened.read_to_end(&mut seen)).expect("whoever has it open");
    assert!(seen == before, "sees the file that he opened");
}

/// diffusers, `--checkpoints_total_limit`: the old checkpoint goes before the new one is there. That order is the seeded bug `delete-first`;
/// here, which ones stay.
#[test]
fn diffusers_total_limit_the_newest_checkpoints_stay_whatever_their_names_and_times() {
    let (_folder, output, mut config) = project(12);
    config.checkpoint.keep_last = 2;
    done(&config, &output);
    let mut names: Vec<String> = fs::read_dir(output.join("checkpoints"))
        .expect("written")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("step-"))
        .collect();
    names.sort();
    assert_eq!(names, ["step-000011", "step-000012"]);
}
