//! Weights that are no number for one step, 200 of them at random places: nothing of it reaches an update or a file, and the batch
//! is named.

use crate::replay::tensor;
use sdtrain_data_loader::DataSet;
use sdtrain_model::{LoadOptions, load};
use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::{FaultyNumber, FloatType, StoredType, TrainConfig, WeightFault};
use sdtrain_state_dict::{Reader, SafetensorsFile};
use sdtrain_torch_test_support::fixture_folder;
use sdtrain_trainer::{Error, Outcome, ResumePolicy, RunOptions, train};
use std::collections::BTreeSet;
use std::path::Path;
use tch::{Device, Kind};
use tempfile::TempDir;

/// A run on six pictures one at a time, two of them accumulated.
fn config(folder: &TempDir, method: &str, steps: u64) -> TrainConfig {
    let images = folder.path().join("images");
    std::fs::create_dir_all(&images).expect("there is room");
    for number in 0..6u8 {
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([number * 40, x as u8 * 8, y as u8 * 8]));
        picture.save(images.join(format!("{number}.png"))).expect("there is room");
        std::fs::write(images.join(format!("{number}.txt")), "poster").expect("there is room");
    }
    let text = format!(
        "name = \"run\"\nmethod = \"{method}\"\n[model]\npath = \"{}\"\n[data]\nresolution = 32\nbatch_size = 1\n\
         [[data.subsets]]\npath = \"images\"\n[lora]\nrank = 2\n[train]\nmax_steps = {steps}\nthreads = 1\n\
         gradient_accumulation_steps = 2\nmax_skipped_steps = 50\n[checkpoint]\nevery_steps = 1\nkeep_last = 1000\n\
         [log]\ntensorboard = false\n",
        tiny().display()
    );
    let file = folder.path().join("run.toml");
    std::fs::write(&file, text).expect("there is room");
    TrainConfig::load(&file, &[]).unwrap_or_else(|error| panic!("{error}")).config
}

fn tiny() -> std::path::PathBuf {
    fixture_folder().join("tiny_sd1").canonicalize().expect("a fixture")
}

fn fault(step: u64, parameter: &str, value: FaultyNumber) -> WeightFault {
    WeightFault { step, pass: None, parameter: parameter.into(), value }
}

/// What of the tiny model a method's steps compute with, by the names of its parameters.
fn parameters(networks: &[&str]) -> Vec<String> {
    let model = load(&tiny().display().to_string(), &LoadOptions::new(Device::Cpu, Kind::Float)).expect("a fixture");
    let of = |network: &str| match network {
        "unet" => model.unet.parameters(),
        "text_encoder" => model.text_encoders[0].network.parameters(),
        _ => model.vae.parameters(),
    };
    let names =
        networks.iter().flat_map(|network| of(network).iter().map(move |(name, _)| format!("{network}.{name}")));
    names.collect()
}

/// `count` different steps below `steps`, each with one of its two passes and some parameter of the UNet.
fn faults(count: usize, steps: u64, seed: u64) -> Vec<WeightFault> {
    faults_in(&parameters(&["unet"]), FaultyNumber::Nan, count, steps, seed)
}

/// The same in any of `names`.
fn faults_in(names: &[String], value: FaultyNumber, count: usize, steps: u64, seed: u64) -> Vec<WeightFault> {
    let (mut stream, mut passes) = (Stream::new(seed, Purpose::Init, 0, 0), Stream::new(seed, Purpose::Init, 1, 0));
    let mut at: Vec<u64> = (1..steps).collect();
    stream.shuffle(&mut at);
    let in_some_pass = |step| {
        let parameter = &names[stream.below(names.len() as u64) as usize];
        WeightFault { pass: Some(1 + passes.below(2)), ..fault(step, parameter, value) }
    };
    at.into_iter().take(count).map(in_some_pass).collect()
}

fn run(config: TrainConfig, output: &Path) -> Result<Outcome, Error> {
    let _ = std::fs::remove_dir_all(output);
    train(config, &RunOptions { output: output.into(), device: "cpu".into(), resume: ResumePolicy::Auto })
}

/// Steps whose scalar `train/skipped_steps` was written.
fn skipped(output: &Path) -> BTreeSet<u64> {
    let text = std::fs::read_to_string(output.join("scalars.jsonl")).expect("written");
    let lines = text.lines().filter(|line| line.contains("train/skipped_steps"));
    let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["step"].as_u64();
    lines.map(|line| step(line).expect("a number")).collect()
}

/// The passes of a skipped step, counted from 1, whose loss is none, as the evidence has them.
fn blamed(output: &Path, step: u64) -> Vec<u64> {
    let path = output.join(format!("not-finite/step-{step:06}.json"));
    let evidence = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let evidence: serde_json::Value = serde_json::from_str(&evidence).expect("JSON");
    let passes = evidence["passes"].as_array().expect("passes");
    assert_eq!(passes.len(), 2, "two batches are accumulated: {evidence}");
    let blamed = (1..).zip(passes).filter(|(_, pass)| pass["loss_is_finite"] == false);
    blamed.map(|(number, _)| number).collect()
}

/// Half of them are no number, the others infinite; each in one of its step's two passes, and that one is blamed.
#[test]
fn two_hundred_faults_never_reach_a_weight_or_a_checkpoint() {
    const STEPS: u64 = 210;
    for (method, seed) in [("full", 1), ("lora", 2)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = folder.path().join("output");
        let mut config = config(&folder, method, STEPS);
        config.debug.faults = faults(100, STEPS, seed);
        config.debug.faults.iter_mut().step_by(2).for_each(|fault| fault.value = FaultyNumber::Infinity);
        let all = config.debug.faults.clone();
        let expected: BTreeSet<u64> = config.debug.faults.iter().map(|fault| fault.step).collect();
        assert_eq!(expected.len(), 100);
        let outcome = run(config, &output).unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        let skipped = skipped(&output);
        assert!(skipped.is_subset(&expected), "{method}: {skipped:?} of {expected:?}");
        // An infinite number need not reach the loss; where it does, the pass that saw it is to blame.
        let mut reached = 0;
        for fault in &all {
            let blamed = if skipped.contains(&fault.step) { blamed(&output, fault.step) } else { Vec::new() };
            let seen = Vec::from_iter(fault.pass);
            assert!(
                blamed == seen || (blamed.is_empty() && fault.value == FaultyNumber::Infinity),
                "{fault:?}: {blamed:?}"
            );
            reached += blamed.len();
        }
        // In diffusers all do, whichever of this UNet's parameters it is.
        assert!(reached >= 90, "{method}: {reached} of 100 reached the loss");
        for step in 1..=STEPS {
            let path = output.join(format!("checkpoints/step-{step:06}/tensors.safetensors"));
            let file = SafetensorsFile::open(&path).expect("whole");
            let good = step - skipped.iter().filter(|&&fault| fault <= step).count() as u64;
            for name in file.names() {
                let tensor = tensor(&file, name);
                assert!(tensor.isfinite().all().int64_value(&[]) == 1, "{method}, step {step}: {name}");
                if name.starts_with("optimizer.step.") {
                    assert_eq!(tensor.double_value(&[]) as u64, good, "{method}, step {step}: updates of {name}");
                }
            }
        }
    }
}

/// kohya_ss#2244, sd-scripts#653: an innocent image is named.
#[test]
fn of_two_accumulated_batches_the_faulty_one_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("output");
    // Absent, the pass is the last.
    let in_the_last = faults(3, 9, 4).into_iter().map(|fault| WeightFault { pass: None, ..fault });
    for fault in faults(12, 9, 3).into_iter().chain(in_the_last) {
        let mut config = config(&folder, "lora", 9);
        let data =
            DataSet::open(&config.data, config.seed, 8).expect("a data set").for_run(&config.train, &config.loss);
        // Three steps an epoch of six images.
        let (epoch, place) = ((fault.step - 1) / 3, (fault.step - 1) % 3 * 2 + fault.pass.unwrap_or(2) - 1);
        let batch = data.load(&data.epoch_plan(epoch)[place as usize], epoch).expect("readable");
        let expected: Vec<String> = batch.examples.iter().map(|e| format!("`{}`", e.path.display())).collect();
        config.train.max_skipped_steps = 0;
        config.debug.faults = vec![fault.clone()];
        match run(config, &output) {
            Err(Error::NotFinite { step, images }) => assert_eq!((step, images), (fault.step, expected), "{fault:?}"),
            other => panic!("{fault:?}: {other:?}"),
        }
        let checkpoint = |step: u64| output.join(format!("checkpoints/step-{step:06}")).exists();
        assert!(!checkpoint(fault.step) && (fault.step == 1 || checkpoint(fault.step - 1)), "{fault:?}");
    }
}

/// The same with numbers greater than all, and in the other networks and the adapters. Such a number need not reach the loss (the
/// softmax of minus infinity is 0); where it does not, the step is one like any other.
#[test]
fn faults_of_any_kind_in_any_part_never_reach_a_weight_or_a_checkpoint() {
    const STEPS: u64 = 60;
    let lora = || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = folder.path().join("output");
        run(config(&folder, "lora", 1), &output).unwrap_or_else(|error| panic!("{error}"));
        let path = output.join("checkpoints/step-000001/tensors.safetensors");
        let trained = SafetensorsFile::open(path).expect("whole");
        let names = trained.names().into_iter().filter_map(|name| name.strip_prefix("parameter."));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let rows: [(&str, FaultyNumber, Vec<String>); 4] = [
        ("full", FaultyNumber::Infinity, parameters(&["unet", "text_encoder"])),
        ("full", FaultyNumber::Nan, parameters(&["text_encoder"])),
        ("vae", FaultyNumber::Infinity, parameters(&["vae"])),
        ("lora", FaultyNumber::Nan, lora()),
    ];
    for (seed, (method, value, names)) in (5..).zip(rows) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = folder.path().join("output");
        let mut config = config(&folder, method, STEPS);
        config.full.train_text_encoder = method == "full";
        config.debug.faults = faults_in(&names, value, 30, STEPS, seed);
        let expected: BTreeSet<u64> = config.debug.faults.iter().map(|fault| fault.step).collect();
        let outcome = run(config, &output).unwrap_or_else(|error| panic!("{method}: {error}"));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        let skipped = skipped(&output);
        assert!(skipped.is_subset(&expected), "{method}: {skipped:?} of {expected:?}");
        // Words of other captions are looked up in the same table: its first row may have no part in the loss.
        assert!(skipped.len() > expected.len() / 2, "{method} {value:?}: only {skipped:?} of {expected:?}");
        for step in 1..=STEPS {
            let path = output.join(format!("checkpoints/step-{step:06}/tensors.safetensors"));
            let file = SafetensorsFile::open(&path).expect("whole");
            for name in file.names() {
                let is_finite = tensor(&file, name).isfinite().all().int64_value(&[]) == 1;
                assert!(is_finite, "{method}, step {step}: {name}");
            }
        }
    }
}

/// A skipped step leaves the weights as they were, so a checkpoint that is due then loses nothing; what is older stays, as nobody
/// knows yet whether they spoil every step.
#[test]
fn a_checkpoint_is_saved_in_a_row_of_skipped_steps_and_none_is_deleted_for_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("output");
    let mut config = config(&folder, "lora", 8);
    config.checkpoint.keep_last = 1;
    config.debug.faults = [3, 4, 5].map(|step| fault(step, "unet.conv_in.weight", FaultyNumber::Nan)).to_vec();
    config.train.max_skipped_steps = 2;
    let error = run(config.clone(), &output).expect_err("the third ends it");
    assert!(matches!(error, Error::NotFinite { step: 5, .. }), "{error}");
    let there = || {
        let names =
            std::fs::read_dir(output.join("checkpoints")).expect("written").map(|entry| entry.expect("readable"));
        let mut names: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with("step-"));
        names.sort();
        names
    };
    assert_eq!(there(), ["step-000002", "step-000003", "step-000004"]);
    config.train.max_skipped_steps = 3;
    run(config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(there(), ["step-000008"], "once a step is good again, they are deleted as always");
}

/// The state before the step that ends a run is whole: nothing that was learned since the last checkpoint is lost, nor does the failed step
/// count where numbers are rounded at random by the number of the step.
#[test]
fn what_was_learned_before_the_step_that_ends_a_run_is_saved() {
    type Setting = fn(&mut TrainConfig);
    let kinds: [(&str, Setting); 3] = [
        ("lora", |config| config.precision.compute = FloatType::Fp16),
        ("full", |config| config.precision.weights = StoredType::Bf16),
        ("full", |config| {
            config.precision.weights = StoredType::Bf16;
            config.precision.optimizer_state = StoredType::Bf16;
            config.train.gradient_accumulation_steps = 1;
            config.train.max_grad_norm = 0.0;
            config.train.fused_backward = true;
        }),
    ];
    for (number, (method, set)) in kinds.into_iter().enumerate() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = folder.path().join("output");
        let mut config = config(&folder, method, 8);
        set(&mut config);
        run(config.clone(), &output).unwrap_or_else(|error| panic!("{error}"));
        let straight = std::fs::read(output.join("run.safetensors")).expect("the product");
        config.checkpoint.every_steps = Some(0);
        config.train.max_skipped_steps = 0;
        config.debug.faults = vec![fault(6, "unet.conv_in.weight", FaultyNumber::Nan)];
        let error = run(config.clone(), &output).expect_err("the first ends it");
        assert!(matches!(error, Error::NotFinite { step: 6, .. }), "{number}: {error}");
        assert!(output.join("checkpoints/step-000005").is_dir(), "{number}");
        // Whoever takes the cause away goes on from there, as if nothing had happened.
        config.debug.faults.clear();
        config.checkpoint.allow_changes = vec!["debug.faults".into()];
        let options = RunOptions { output: output.clone(), device: "cpu".into(), resume: ResumePolicy::Auto };
        train(config, &options).unwrap_or_else(|error| panic!("{error}"));
        assert!(std::fs::read(output.join("run.safetensors")).expect("the product") == straight, "{number}");
    }
}

/// A loss of 10³⁰ is a number, and the squares of its gradients are none. Within the backward pass some weights may have been updated
/// before that is known: such a run ends at once, whatever `train.max_skipped_steps` says, and nothing of it is saved.
#[test]
fn a_gradient_that_is_not_finite_beside_a_loss_that_is_ends_a_run_that_updates_within_the_backward_pass() {
    for fused in [true, false] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = folder.path().join("output");
        let mut config = config(&folder, "full", 2);
        config.train.gradient_accumulation_steps = 1;
        config.train.max_grad_norm = 0.0;
        config.train.fused_backward = fused;
        config.train.max_skipped_steps = if fused { 50 } else { 0 };
        config.data.subsets[0].loss_weight = 1e30;
        let error = run(config, &output).expect_err("no step of it is good");
        assert!(matches!(&error, Error::NotFinite { step: 1, .. }), "fused {fused}: {error}");
        assert!(error.to_string().starts_with("the loss or gradient of step 1 is not finite"), "{error}");
        let evidence = std::fs::read_to_string(output.join("not-finite/step-000001.json")).expect("written");
        let evidence: serde_json::Value = serde_json::from_str(&evidence).expect("JSON");
        let is_finite =
            |key: &str| evidence[key].as_str().and_then(|text| text.parse::<f64>().ok()).map(f64::is_finite);
        assert_eq!((is_finite("loss"), is_finite("grad_norm")), (Some(true), Some(false)), "{evidence}");
        assert!(!output.join("run.safetensors").exists());
        let saved = std::fs::read_dir(output.join("checkpoints")).into_iter().flatten().flatten();
        let saved: Vec<_> = saved.map(|entry| entry.file_name()).collect();
        assert!(saved.is_empty(), "{saved:?}");
    }
}

/// What loss scaling skips is no fault, even where `train.max_skipped_steps` allows none: a loss of 10³⁰ is a number, its gradients in
/// fp16 are none. It is said all the same, since nothing is learned in such a step.
#[test]
fn an_overflow_that_a_smaller_scale_may_mend_is_not_counted_and_leaves_no_evidence() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("output");
    let mut config = config(&folder, "lora", 2);
    config.precision.compute = sdtrain_recipe::FloatType::Fp16;
    config.train.max_skipped_steps = 0;
    config.data.subsets[0].loss_weight = 1e30;
    run(config, &output).unwrap_or_else(|error| panic!("{error}"));
    assert!(!output.join("not-finite").exists());
    let state = std::fs::read_to_string(output.join("checkpoints/step-000002/state.json")).expect("saved");
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!((&state["position"]["skipped"], &state["scaler"]["scale"]), (&0.into(), &16384.0.into()), "{state}");
    let scalars = std::fs::read_to_string(output.join("scalars.jsonl")).expect("written");
    let scalars = scalars.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let scales = scalars.filter(|scalar| scalar["tag"] == "train/loss_scale");
    let scales: Vec<_> = scales.map(|scalar| (scalar["step"].as_u64(), scalar["value"].as_f64())).collect();
    assert_eq!(scales, [(Some(1), Some(32768.0)), (Some(2), Some(16384.0))]);
}

#[test]
fn a_fault_in_a_parameter_that_is_not_there_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(&folder, "lora", 2);
    config.debug.faults = vec![fault(1, "unet.conv_in.wieght", FaultyNumber::Nan)];
    let error = run(config, &folder.path().join("output")).expect_err("a slip of the pen").to_string();
    assert!(error.contains("`unet.conv_in.wieght`"), "{error}");
}
