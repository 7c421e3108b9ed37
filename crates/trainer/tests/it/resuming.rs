//! What a run must find as it was when it is continued, and what it may be told to change.

use crate::failures::{config, run};
use sdtrain_recipe::{FloatType, TrainConfig};
use sdtrain_state_dict::{Reader, SafetensorsFile};
use sdtrain_torch_test_support::{copy_folder, fixture_folder};
use sdtrain_trainer::{Error, Outcome, ResumePolicy, RunOptions, train};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const EVERY_STEP: &str = "[checkpoint]\nevery_steps = 1\nkeep_last = 99\n";

fn project() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("output");
    (folder, output)
}

fn resume(config: &TrainConfig, output: &Path, from: &Path) -> Result<Outcome, Error> {
    let resume = ResumePolicy::From(from.into());
    train(config.clone(), &RunOptions { output: output.into(), device: "cpu".into(), resume })
}

/// The configuration of the project with `changes`.
fn with(folder: &TempDir, changes: &[&str]) -> TrainConfig {
    let changes: Vec<String> = changes.iter().map(|change| change.to_string()).collect();
    TrainConfig::load(&folder.path().join("run.toml"), &changes).unwrap_or_else(|error| panic!("{error}")).config
}

fn checkpoint(output: &Path, step: u64) -> PathBuf {
    output.join(format!("checkpoints/step-{step:06}"))
}

fn product(output: &Path) -> Vec<u8> {
    fs::read(output.join("run.safetensors")).expect("the product")
}

fn tensors(output: &Path) -> Vec<(String, Vec<u8>)> {
    let file = SafetensorsFile::open(output.join("run.safetensors")).expect("the product");
    let names = file.names().into_iter();
    names.map(|name| (name.to_owned(), file.bytes(name).expect("readable").to_vec())).collect()
}

fn rates(output: &Path) -> Vec<f64> {
    let text = fs::read_to_string(output.join("metrics.jsonl")).expect("written");
    let rate = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["lr"]["unet"].as_f64();
    text.lines().map(|line| rate(line).expect("a rate")).collect()
}

fn run_json(output: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(output.join("run.json")).expect("written")).expect("JSON")
}

/// Makes a finished run look as if it had been killed after `step`.
fn cut_back(output: &Path, step: u64) {
    fs::remove_file(output.join("run.json")).expect("written");
    fs::remove_file(output.join("run.safetensors")).expect("written");
    for later in step + 1..200 {
        let _ = fs::remove_dir_all(checkpoint(output, later));
    }
}

/// A run that looks as if it had been killed after `step` of `steps`: the project's folder, the run's in it, and its configuration.
fn killed_after(step: u64, steps: u64, more: &str) -> (TempDir, PathBuf, TrainConfig) {
    let (folder, output) = project();
    let config = config(&folder, steps, more);
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    cut_back(&output, step);
    (folder, output, config)
}

#[test]
fn a_continued_run_has_the_bits_of_one_that_was_not_stopped() {
    const HALF_WAY: &str = "[checkpoint]\nevery_steps = 1\nkeep_last = 99\n[precision]\ncompute = \"fp16\"\n[ema]\nenabled = true\n\
                            [lr_schedule]\ntype = \"cosine\"\n";
    let (folder, output) = project();
    config(&folder, 9, HALF_WAY);
    // Four batches an epoch; step 5 is skipped, and the run stopped behind it, after the first of its second epoch.
    let faults = "debug.faults=[{step = 5, parameter = \"unet.conv_in.weight\"}]";
    let config =
        with(&folder, &["lora.dropout=0.2", faults, "data.batch_size=1", "data.subsets.0.caption_dropout_rate=0.2"]);
    let expected = {
        run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
        (product(&output), measured(&output), fs::read(checkpoint(&output, 9).join("state.json")).expect("written"))
    };
    cut_back(&output, 5);
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(measured(&output), expected.1);
    assert!(product(&output) == expected.0, "the product");
    let state = fs::read(checkpoint(&output, 9).join("state.json")).expect("written");
    assert_eq!(String::from_utf8_lossy(&state), String::from_utf8_lossy(&expected.2));
}

/// Step, epoch, loss, gradient norm and rates of each step, as written.
fn measured(output: &Path) -> Vec<String> {
    let text = fs::read_to_string(output.join("metrics.jsonl")).expect("written");
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        format!("{} {} {} {} {}", line["step"], line["epoch"], line["loss"], line["grad_norm"], line["lr"])
    };
    text.lines().map(line).collect()
}

/// Checkpoint `step` as another program would have written it: whole, as its manifest says, with other bytes in one of its files.
fn write_otherwise(folder: &TempDir, output: &Path, step: u64, file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let (own, other) = (checkpoint(output, step), folder.path().join("other"));
    fs::rename(&own, &other).expect("the same disk");
    let info = sdtrain_checkpoint::verify(&other).expect("whole").info;
    sdtrain_checkpoint::publish(&output.join("checkpoints"), &format!("step-{step:06}"), info, &mut |path| {
        for name in ["tensors.safetensors", "config.toml", "state.json"] {
            let bytes = fs::read(other.join(name))?;
            fs::write(path.join(name), if name == file { change(bytes) } else { bytes })?;
        }
        Ok(())
    })
    .expect("there is room");
}

/// TF32 is rounding of a GPU, and a processor's average is there already.
#[test]
fn tf32_and_the_place_of_the_average_change_no_bit_on_a_processor() {
    let (folder, output) = project();
    run(&config(&folder, 3, "[ema]\nenabled = true\ndecay = 0.5\n"), &output).unwrap_or_else(|error| panic!("{error}"));
    for setting in ["ema.on_cpu=true", "precision.tf32=true", "precision.tf32=false"] {
        let other = folder.path().join(setting);
        run(&with(&folder, &[setting]), &other).unwrap_or_else(|error| panic!("{setting}: {error}"));
        assert!(tensors(&other) == tensors(&output), "{setting}");
    }
    // So that the average itself is seen.
    let plain = folder.path().join("plain");
    run(&with(&folder, &["ema.enabled=false"]), &plain).unwrap_or_else(|error| panic!("{error}"));
    assert!(tensors(&plain) != tensors(&output));
}

/// tinker-feedback#127, OpenNMT#617, the_well#77: the optimizer or the loss scale is not restored, and nobody is told.
#[test]
fn a_loss_scale_that_is_not_there_is_refused() {
    let (folder, output, config) =
        killed_after(2, 3, "[checkpoint]\nevery_steps = 1\nkeep_last = 99\n[precision]\ncompute = \"fp16\"\n");
    write_otherwise(&folder, &output, 2, "state.json", |bytes| {
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        value["scaler"] = serde_json::Value::Null;
        value.to_string().into_bytes()
    });
    let error = run(&config, &output).expect_err("there is none").to_string();
    assert!(error.contains("no loss scale"), "{error}");
}

/// entrenar#98, the_well#77: a part of the state is not in the checkpoint, and the run begins that part anew.
#[test]
fn entrenar_98_a_state_that_lacks_one_tensor_is_refused_whichever_it_is() {
    for kind in ["parameter", "optimizer", "ema"] {
        let (folder, output, config) = killed_after(2, 3, &format!("{EVERY_STEP}[ema]\nenabled = true\n"));
        // Under another name of the same length; it is the first such name in the file's header.
        write_otherwise(&folder, &output, 2, "tensors.safetensors", |mut bytes| {
            let prefix = format!("\"{kind}.");
            let at = bytes.windows(prefix.len()).position(|part| part == prefix.as_bytes());
            bytes[at.expect("the state has such a tensor") + 1] = b'_';
            bytes
        });
        let error = run(&config, &output).expect_err("it is not all there");
        assert!(matches!(error, Error::CannotContinue { .. }), "{kind}: {error}");
        assert!(!checkpoint(&output, 3).exists(), "{kind}");
    }
}

#[test]
fn a_base_that_was_replaced_under_its_path_is_refused_and_one_that_moved_is_not() {
    let (folder, output) = project();
    let mut config = config(&folder, 4, EVERY_STEP);
    let (base, moved) = (folder.path().join("base"), folder.path().join("moved"));
    copy_folder(&fixture_folder().join("tiny_sd1"), &base);
    config.model.path = base.display().to_string();
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    let (expected, learned) = (product(&output), tensors(&output));
    cut_back(&output, 2);
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert!(product(&output) == expected);
    cut_back(&output, 2);
    // One tensor, as a merge of attention layers would leave the others.
    copy_folder(&base, &moved);
    let weights = base.join("unet/diffusion_pytorch_model.safetensors");
    let file = SafetensorsFile::open(&weights).expect("a network");
    let name = file.names().into_iter().find(|name| name.contains("attn2.to_q.weight")).expect("it has attention");
    let tensor = file.bytes(name).expect("readable").to_vec();
    let mut bytes = fs::read(&weights).expect("a network");
    let at = bytes.windows(tensor.len()).position(|part| part == tensor).expect("it is there");
    bytes[at..at + tensor.len()].chunks_exact_mut(2).for_each(|number| number[0] ^= 1);
    fs::write(&weights, bytes).expect("there is room");
    let error = run(&config, &output).expect_err("another base").to_string();
    assert!(error.contains("base model") && error.contains("\"model\""), "{error}");
    config.model.path = moved.display().to_string();
    let error = run(&config, &output).expect_err("another path needs a permission").to_string();
    assert!(error.contains("model.path"), "{error}");
    config.checkpoint.allow_changes = vec!["model.path".into()];
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    // The file's metadata name the base.
    assert!(tensors(&output) == learned, "the same weights");
}

/// The base's weights are rounded to the format that is computed in: they are other numbers, and the same model.
#[test]
fn computing_in_another_format_needs_no_permission_for_another_model() {
    let (folder, output, mut config) = killed_after(2, 4, EVERY_STEP);
    config.precision.compute = FloatType::Bf16;
    let error = run(&config, &output).expect_err("not allowed").to_string();
    assert!(error.contains("precision.compute") && !error.contains("base model"), "{error}");
    config.checkpoint.allow_changes = vec!["precision.compute".into()];
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    let changes = run_json(&output)["changes"].to_string();
    assert!(changes.contains("precision.compute") && !changes.contains("content of `model`"), "{changes}");
    // From the next checkpoint on the base is compared again, in the new format.
    cut_back(&output, 3);
    copy_folder(&fixture_folder().join("tiny_sd1"), &folder.path().join("base"));
    config.model.path = folder.path().join("base").display().to_string();
    config.checkpoint.allow_changes = vec!["model.path".into()];
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert!(run_json(&output)["changes"].to_string().contains("model.path"));
}

#[test]
fn a_checkpoint_that_is_continued_elsewhere_is_held_against_its_own_configuration() {
    let (folder, output) = project();
    let mut config = config(&folder, 3, EVERY_STEP);
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    let elsewhere = folder.path().join("elsewhere");
    // Carried to another machine, without the folder around it.
    let carried = folder.path().join("carried/step-000002");
    fs::create_dir_all(&carried).expect("there is room");
    for entry in fs::read_dir(checkpoint(&output, 2)).expect("a checkpoint") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), carried.join(entry.file_name())).expect("there is room");
    }
    config.optimizer = with(&folder, &["optimizer.learning_rate=3e-3"]).optimizer;
    let error = resume(&config, &elsewhere, &carried).expect_err("another rate").to_string();
    assert!(error.contains("optimizer.learning_rate"), "{error}");
    assert!(!elsewhere.join("checkpoints/step-000003").exists());
}

/// sd-scripts#1653: a run with a schedule that ends cannot be prolonged.
#[test]
fn sd_scripts_1653_a_finished_run_is_prolonged_where_its_length_may_change() {
    let (folder, output) = project();
    config(&folder, 6, EVERY_STEP);
    let short = with(&folder, &["lr_schedule.type=warmup_stable_decay", "lr_schedule.decay_steps=2"]);
    let mut long = short.clone();
    long.train.max_steps = Some(12);
    let straight = folder.path().join("straight");
    run(&long, &straight).unwrap_or_else(|error| panic!("{error}"));
    run(&short, &output).unwrap_or_else(|error| panic!("{error}"));
    let error = run(&long, &output).expect_err("nobody said that it may").to_string();
    assert!(error.contains("train.max_steps"), "{error}");
    long.checkpoint.allow_changes = vec!["train.max_steps".into()];
    // From the last step before the rate fell, so that nothing of the decay is in it.
    fs::remove_file(output.join("run.json")).expect("written");
    for later in [5, 6] {
        fs::remove_dir_all(checkpoint(&output, later)).expect("written");
    }
    run(&long, &output).unwrap_or_else(|error| panic!("{error}"));
    assert!(product(&output) == product(&straight), "prolonged in the stable part, it is the longer run");
    assert_eq!(rates(&output), rates(&straight));
    let changes = run_json(&output)["changes"].to_string();
    assert!(changes.contains("changed after step 000004: train.max_steps") && changes.contains("6 → 12"), "{changes}");
    // A finished one goes on as well, and remembers the change before.
    long.train.max_steps = Some(13);
    run(&long, &output).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rates(&output).len(), 13);
    let changes = run_json(&output)["changes"].to_string();
    assert!(changes.contains("000004: train.max_steps") && changes.contains("000012: train.max_steps"), "{changes}");
    assert!(matches!(run(&long, &output), Ok(Outcome::AlreadyDone)));
}

#[test]
fn what_decides_no_step_may_change_without_a_word_in_the_configuration() {
    let (folder, output) = project();
    let mut config = config(&folder, 4, EVERY_STEP);
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    let expected = product(&output);
    cut_back(&output, 2);
    config.checkpoint.keep_last = 1;
    config.checkpoint.retry_minutes = 3;
    config.data.workers = 0;
    config.samples.steps = 7;
    config.log.every_steps = 3;
    config.train.max_skipped_steps = 3;
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert!(product(&output) == expected);
    let changes = run_json(&output)["changes"].to_string();
    assert!(changes.contains("checkpoint.keep_last: 99 → 1") && changes.contains("data.workers"), "{changes}");
}

#[test]
fn other_images_are_gone_on_with_where_that_is_allowed_from_the_beginning_of_an_epoch() {
    // Two batches an epoch: in the middle of the second.
    let (folder, output, mut config) = killed_after(3, 5, EVERY_STEP);
    fs::remove_file(folder.path().join("images/3.png")).expect("written");
    fs::remove_file(folder.path().join("images/3.txt")).expect("written");
    let error = run(&config, &output).expect_err("an image less").to_string();
    assert!(error.contains("images or captions have changed") && error.contains("\"data\""), "{error}");
    config.checkpoint.allow_changes = vec!["data".into()];
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    let metrics = fs::read_to_string(output.join("metrics.jsonl")).expect("written");
    let epochs: Vec<u64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["epoch"].as_u64().expect("a number"))
        .collect();
    assert_eq!(epochs, [1, 1, 2, 3, 3]);
    assert!(run_json(&output)["changes"].to_string().contains("images or captions"), "it is recorded");
}

/// A quarter of a picture an epoch: of the first eight epochs, the fifth alone has a batch beside the first.
#[test]
fn other_images_whose_next_epoch_is_without_a_batch_are_gone_on_with_in_a_later_one() {
    // Two batches an epoch: in the middle of the second.
    let (folder, output, _) = killed_after(3, 5, EVERY_STEP);
    for number in 1..4 {
        fs::remove_file(folder.path().join(format!("images/{number}.png"))).expect("written");
        fs::remove_file(folder.path().join(format!("images/{number}.txt"))).expect("written");
    }
    let fewer = ["data.batch_size=1", "data.subsets.0.repeats=0.25", "checkpoint.allow_changes=[\"data\"]"];
    run(&with(&folder, &fewer), &output).unwrap_or_else(|error| panic!("{error}"));
    let metrics = fs::read_to_string(output.join("metrics.jsonl")).expect("written");
    let epoch = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["epoch"].as_u64();
    assert_eq!(metrics.lines().filter_map(epoch).collect::<Vec<_>>(), [1, 1, 2, 5, 9]);
}

/// kohya_ss#1629: an edited image goes unnoticed.
#[test]
fn an_edited_image_of_equal_length_is_noticed_and_a_copied_folder_is_not() {
    let (folder, output, config) = killed_after(2, 4, EVERY_STEP);
    let path = folder.path().join("images/1.png");
    let content = fs::read(&path).expect("written");
    // As a copy leaves it: another file with another time and the same content.
    fs::remove_file(&path).expect("written");
    fs::write(&path, &content).expect("there is room");
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    cut_back(&output, 2);
    // Another picture that takes as many bytes.
    let edited = (0..=255).rev().find_map(|red| {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([red, x as u8 * 8, y as u8 * 8]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Png).expect("in memory");
        Some(bytes.into_inner()).filter(|bytes| bytes.len() == content.len() && *bytes != content)
    });
    fs::write(&path, edited.expect("one of 255 has this length")).expect("there is room");
    let error = run(&config, &output).expect_err("another picture").to_string();
    assert!(error.contains("images or captions have changed"), "{error}");
}

#[test]
fn a_checkpoint_without_the_loss_scale_is_refused_unless_the_precision_changed() {
    let (_folder, output, mut config) = killed_after(2, 3, EVERY_STEP);
    config.precision.compute = FloatType::Fp16;
    config.checkpoint.allow_changes = vec!["precision".into(), "model".into()];
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert!(run_json(&output)["changes"].to_string().contains("precision.compute"));
}

#[test]
fn the_average_of_the_weights_may_begin_on_the_way() {
    let (_folder, output, mut config) = killed_after(2, 3, EVERY_STEP);
    config.ema.enabled = true;
    assert!(run(&config, &output).is_err());
    config.checkpoint.allow_changes = vec!["ema".into()];
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn of_the_products_on_the_way_the_oldest_go_whatever_their_times_say() {
    let (folder, output) = project();
    let mut config = config(&folder, 4, EVERY_STEP);
    config.save.every_steps = Some(1);
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    cut_back(&output, 3);
    // The clock was wrong when the first was written.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1 << 20);
    let first = fs::File::options().append(true).open(output.join("run-step00000001.safetensors")).expect("written");
    first.set_modified(later).expect("ours");
    config.save.keep_last = Some(2);
    config.train.max_steps = Some(5);
    config.checkpoint.allow_changes = vec!["train.max_steps".into()];
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    for (step, stays) in [(1, false), (2, false), (3, true), (4, true)] {
        assert_eq!(output.join(format!("run-step{step:08}.safetensors")).exists(), stays, "step {step}");
    }
}

/// The numbers of the steps whose products on the way lie in the folder.
fn on_the_way(output: &Path) -> Vec<u64> {
    (1..10).filter(|step| output.join(format!("run-step{step:08}.safetensors")).exists()).collect()
}

#[test]
fn products_of_later_steps_are_set_aside_where_a_run_goes_back_and_cost_it_none_of_its_own() {
    let (folder, output) = project();
    let mut config = config(&folder, 6, &format!("{EVERY_STEP}[save]\nevery_steps = 1\nkeep_last = 2\n"));
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(on_the_way(&output), [4, 5]);
    let abandoned = fs::read(output.join("run-step00000005.safetensors")).expect("a product");
    // Shorter, so that it does not come to them again.
    config.train.max_steps = Some(4);
    config.checkpoint.allow_changes = vec!["train.max_steps".into()];
    resume(&config, &output, &checkpoint(&output, 1)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(on_the_way(&output), [2, 3]);
    let aside = output.join("checkpoints-set-aside");
    assert!(aside.join("run-step00000004.safetensors.1").is_file());
    assert!(fs::read(aside.join("run-step00000005.safetensors.1")).expect("set aside") == abandoned);
}

#[test]
fn products_of_steps_that_a_run_has_yet_to_come_to_do_not_count() {
    let more = format!("{EVERY_STEP}[save]\nevery_steps = 1\nkeep_last = 2\n");
    let (_folder, output, mut config) = killed_after(2, 6, &more);
    assert_eq!(on_the_way(&output), [4, 5]);
    config.train.max_steps = Some(4);
    config.checkpoint.allow_changes = vec!["train.max_steps".into()];
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(on_the_way(&output), [3, 4, 5]);
}

/// A kill between the checkpoint of a step and its product.
#[test]
fn a_product_on_the_way_that_a_kill_behind_its_checkpoint_cost_is_written_when_the_run_goes_on() {
    let ways: [(&str, &[&str]); 2] = [
        ("[save]\nevery_steps = 2\n[ema]\nenabled = true\nsave_raw = true\n", &["step00000002", "step00000002-raw"]),
        // The epoch ends there.
        ("[save]\nevery_epochs = 1\n[optimizer]\ntype = \"adamw_schedule_free\"\n", &["000001"]),
    ];
    for (more, names) in ways {
        let (folder, output) = project();
        let config = config(&folder, 3, &format!("{EVERY_STEP}{more}"));
        run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
        let on_the_way: Vec<PathBuf> =
            names.iter().map(|name| output.join(format!("run-{name}.safetensors"))).collect();
        let content = |path: &PathBuf| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let expected: Vec<Vec<u8>> = on_the_way.iter().map(content).collect();
        let at_the_end = product(&output);
        cut_back(&output, 2);
        // Of several files the last ones.
        fs::remove_file(on_the_way.last().expect("there is one")).expect("written");
        run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
        let written: Vec<Vec<u8>> = on_the_way.iter().map(content).collect();
        assert!(written == expected, "{more}");
        assert!(product(&output) == at_the_end, "{more}");
    }
}

#[test]
fn a_product_on_the_way_that_is_there_or_was_deleted_for_its_age_is_not_written_again() {
    let (_folder, output, mut config) =
        killed_after(2, 4, &format!("{EVERY_STEP}[save]\nevery_steps = 1\nkeep_last = 1\n"));
    assert_eq!(on_the_way(&output), [3]);
    config.save.keep_last = None;
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(on_the_way(&output), [3]);
    cut_back(&output, 3);
    let third = output.join("run-step00000003.safetensors");
    fs::write(&third, "as it was").expect("there is room");
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fs::read(&third).expect("it stays"), b"as it was");
}

/// sd-scripts#93: what fp16 does to weights at the save; here, those that it makes infinite.
#[test]
fn a_weight_that_fp16_cannot_hold_is_no_product_and_another_format_takes_it() {
    let (folder, output) = project();
    let mut config = config(&folder, 2, EVERY_STEP);
    config.precision.save = FloatType::Fp16;
    config.optimizer = with(&folder, &["optimizer.learning_rate=1e6"]).optimizer;
    config.save.every_steps = Some(1);
    config.train.max_steps = Some(1);
    let error = run(&config, &output).expect_err("weights of about 100000");
    assert!(matches!(error, Error::DoesNotFit { .. }), "{error}");
    assert!(!output.join("run.safetensors").exists() && checkpoint(&output, 1).is_dir());
    config.precision.save = FloatType::Bf16;
    run(&config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert!(output.join("run.safetensors").exists());
}
