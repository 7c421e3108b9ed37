//! What is fused, frozen and grouped: whole runs of the tiny model, told apart by their traces.

use sdtrain_adapter::{FUSED_KEY, WeightedAdapter, fold};
use sdtrain_model::{LoadOptions, load};
use sdtrain_recipe::TrainConfig;
use sdtrain_state_dict::{Reader, SafetensorsFile};
use sdtrain_torch_test_support::fixture_folder;
use sdtrain_trainer::{Outcome, ResumePolicy, RunOptions, train};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

/// A folder with four small pictures, captions, and the configuration of a short run of the tiny model.
struct Project(TempDir);

impl Project {
    fn new(settings: &str) -> Project {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let images = folder.path().join("images");
        std::fs::create_dir(&images).expect("there is room");
        for number in 0..4u8 {
            let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([number * 60, x as u8 * 4, y as u8 * 4]));
            picture.save(images.join(format!("{number}.png"))).expect("there is room");
            std::fs::write(images.join(format!("{number}.txt")), "poster, small").expect("there is room");
        }
        let project = Project(folder);
        let text = format!(
            "{settings}\n[data]\nresolution = 64\nbatch_size = 2\n[[data.subsets]]\npath = \"images\"\n\
             [log]\ntensorboard = false\nevery_steps = 1\n[checkpoint]\nevery_steps = 2\n"
        );
        std::fs::write(project.path("run.toml"), text).expect("there is room");
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Trains into `output` with a trace; the trace, or the error's message.
    fn run(&self, output: &str, changes: &[&str]) -> Result<SafetensorsFile, String> {
        self.run_from(output, changes, ResumePolicy::Auto)
    }

    fn run_from(&self, output: &str, changes: &[&str], resume: ResumePolicy) -> Result<SafetensorsFile, String> {
        let trace = self.path(&format!("{output}.trace"));
        let mut overrides = vec![format!("debug.trace={}", trace.display()), "debug.trace_steps=100".to_string()];
        if !changes.iter().any(|change| change.starts_with("model.path")) {
            overrides.push(format!("model.path={}", tiny().display()));
        }
        overrides.extend(changes.iter().map(|change| change.to_string()));
        let config =
            TrainConfig::load(&self.path("run.toml"), &overrides).unwrap_or_else(|error| panic!("{error}")).config;
        let options = RunOptions { output: self.path(output), device: "cpu".into(), resume };
        match train(config, &options) {
            Ok(Outcome::Done(_)) => Ok(SafetensorsFile::open(&trace).expect("the run wrote it")),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    fn trace(&self, output: &str, changes: &[&str]) -> SafetensorsFile {
        self.run(output, changes).unwrap_or_else(|error| panic!("{output}: {error}"))
    }
}

fn tiny() -> PathBuf {
    fixture_folder().join("tiny_sd1").canonicalize().expect("a fixture")
}

fn tensor(file: &SafetensorsFile, name: &str) -> Tensor {
    sdtrain_model::read_tensor(file, name, None, Device::Cpu).unwrap_or_else(|error| panic!("{error}"))
}

/// Every tensor whose name begins with `prefix`, without it.
fn tensors(file: &SafetensorsFile, prefix: &str) -> BTreeMap<String, Tensor> {
    let names = file.names().into_iter().filter_map(|name| Some((name, name.strip_prefix(prefix)?.to_string())));
    names.map(|(name, rest)| (rest, tensor(file, name))).collect()
}

/// Which tensors the run changed.
fn moved(trace: &SafetensorsFile) -> Vec<String> {
    let before = tensors(trace, "initial.");
    let after = tensors(trace, "final.");
    after.into_iter().filter(|(name, tensor)| !tensor.equal(&before[name])).map(|(name, _)| name).collect()
}

fn assert_same(a: &SafetensorsFile, b: &SafetensorsFile) {
    assert_eq!(a.names(), b.names());
    for name in a.names() {
        assert!(tensor(a, name).equal(&tensor(b, name)), "{name} differs");
    }
}

const FULL: &str = "method = \"full\"\n[train]\nmax_steps = 2\n[optimizer]\ntype = \"adamw\"\nlearning_rate = 1e-3\n";
const LORA: &str = "[train]\nmax_steps = 2\n[optimizer]\ntype = \"adamw\"\nlearning_rate = 1e-3\n[lora]\nrank = 2\n";

/// The fixture's adapter and the same in a model file: `[[model.fuse]]` of one, `model.path` of the other.
fn fused_and_merged(project: &Project) -> ([String; 2], String) {
    let adapter = fixture_folder().join("lora_kohya.safetensors").canonicalize().expect("a fixture");
    let model = load(&tiny().display().to_string(), &LoadOptions::new(Device::Cpu, Kind::Float)).expect("a fixture");
    fold(&model, &[WeightedAdapter { path: adapter.clone(), weight: 0.6 }]).expect("it fits");
    let merged = project.path("merged.safetensors");
    model.save_single_file(&merged, Some(Kind::Float), &BTreeMap::new()).expect("there is room");
    let fuse = format!("model.fuse=[{{path = \"{}\", weight = 0.6}}]", adapter.display());
    let plain = format!("model.path={}", tiny().display());
    ([fuse, plain], format!("model.path={}", merged.display()))
}

#[test]
fn training_on_fused_adapters_equals_training_on_a_merged_file_to_the_bit() {
    for (settings, compute) in [(LORA, "fp32"), (LORA, "bf16"), (FULL, "fp32"), (FULL, "bf16")] {
        let project = Project::new(settings);
        let ([fuse, plain], merged) = fused_and_merged(&project);
        let compute = format!("precision.compute={compute}");
        let fused = project.trace("fused", &[&fuse, &plain, &compute]);
        let merged = project.trace("merged", &[&merged, &compute]);
        assert_same(&fused, &merged);
        let bare = project.trace("bare", &[&compute]);
        assert!(!tensor(&bare, "step.1.loss").equal(&tensor(&fused, "step.1.loss")), "{compute}: it changes nothing");
    }
}

#[test]
fn a_product_says_what_was_fused_and_a_changed_adapter_ends_the_run_that_it_began() {
    let project = Project::new(LORA);
    let adapter = project.path("style.safetensors");
    std::fs::copy(fixture_folder().join("lora_kohya.safetensors"), &adapter).expect("there is room");
    let fuse = format!("model.fuse=[{{path = \"{}\"}}]", adapter.display());
    project.trace("run", &[&fuse, "train.max_steps=4"]);
    let product = SafetensorsFile::open(project.path("run/run.safetensors")).expect("the product");
    let fused = &product.metadata()[FUSED_KEY];
    assert!(fused.contains("\"style.safetensors\"") && fused.contains("\"weight\":1.0"), "{fused}");
    let again = || {
        let checkpoint = ResumePolicy::From(project.path("run/checkpoints/step-000002"));
        project.run_from("run", &[&fuse, "train.max_steps=4"], checkpoint)
    };
    again().expect("nothing has changed");
    // The same name with other content.
    std::fs::copy(fixture_folder().join("lora_peft.safetensors"), &adapter).expect("there is room");
    let message = again().err().expect("the base would be another one");
    assert!(message.contains("the adapters of `model.fuse` have changed since"), "{message}");
}

#[test]
fn parts_are_frozen_by_pattern() {
    let project = Project::new(FULL);
    let run =
        project.trace("run", &["full.targets=[\"unet.*.attn2.*\", \"unet.mid_block.*\"]", "full.freeze=[\"*.bias\"]"]);
    let moved = moved(&run);
    assert!(moved.contains(&"unet.mid_block.resnets.0.conv1.weight".to_string()), "{moved:?}");
    assert!(moved.iter().any(|name| name.contains(".attn2.") && !name.contains("mid_block")));
    assert!(moved.iter().all(|name| name.contains(".attn2.") || name.contains("mid_block")));
    assert!(moved.iter().all(|name| !name.ends_with(".bias")));
    let message = project.run("none", &["full.freeze=[\"unet.up_block.*\"]"]).err().expect("a slip of the pen");
    assert!(message.contains("`full.freeze` has the pattern \"unet.up_block.*\""), "{message}");
}

/// The tiny model has two levels of one layer: nine blocks.
const BLOCKS: &str = "blocks.learning_rates=[0, 0, 0, 1e-4, 2e-4, 0, 0, 0, 3e-4]";

#[test]
fn blocks_learn_at_their_own_rates_or_not_at_all() {
    let project = Project::new(FULL);
    let run = project.trace("run", &[BLOCKS]);
    let moved = moved(&run);
    let starts = [
        "unet.down_blocks.1.",
        "unet.mid_block.",
        "unet.up_blocks.1.resnets.1",
        "unet.up_blocks.1.attentions.1",
        "unet.conv_norm_out",
        "unet.conv_out",
    ];
    assert!(
        !moved.is_empty() && moved.iter().all(|name| starts.iter().any(|start| name.starts_with(start))),
        "{moved:?}"
    );
    let rates: Vec<f64> = (0..3).map(|group| tensor(&run, "step.1.lr").double_value(&[group])).collect();
    for (rate, expected) in rates.iter().zip([1e-4, 2e-4, 3e-4]) {
        assert!((rate - expected).abs() < 1e-9, "{rates:?}");
    }
    let message = project.run("short", &["blocks.learning_rates=[0, 1e-4]"]).err().expect("nine are needed");
    assert!(message.contains("`blocks.learning_rates` has 2 numbers, but the model has 9 such blocks"), "{message}");
}

#[test]
fn a_lora_gets_no_adapters_in_frozen_blocks_and_the_others_are_what_they_were() {
    let project = Project::new(LORA);
    let (some, all) = (project.trace("some", &[BLOCKS]), project.trace("all", &[]));
    let (some, all) = (tensors(&some, "initial."), tensors(&all, "initial."));
    assert!(some.len() < all.len());
    for (name, tensor) in &some {
        let blocks = ["unet.down_blocks.1.", "unet.mid_block.", "unet.up_blocks.1.attentions.1"];
        assert!(blocks.iter().any(|block| name.starts_with(block)), "{name}");
        assert!(tensor.equal(&all[name]), "{name}");
    }
}

#[test]
fn loraplus_gives_the_upper_matrices_a_rate_of_their_own() {
    let project = Project::new(&LORA.replace("rank = 2", "rank = 2\ntrain_text_encoder = true"));
    let run = project
        .trace("run", &["lora.loraplus_lr_ratio=4", "lora.loraplus_text_encoder_lr_ratio=8", "train.max_steps=1"]);
    let metrics = std::fs::read_to_string(project.path("run/metrics.jsonl")).expect("written");
    let expected = "\"lr\":{\"text_encoder\":0.001,\"text_encoder.plus\":0.008,\"unet\":0.001,\"unet.plus\":0.004}";
    assert!(metrics.contains(expected), "{metrics}");
    // AdamW's first step is the rate, whatever the gradient; weight decay moves a zero by nothing.
    for (name, after) in tensors(&run, "final.").iter().filter(|(name, _)| name.contains(".lora_B.")) {
        let rate = if name.starts_with("unet.") { 0.004 } else { 0.008 };
        let largest = after.abs().max().double_value(&[]);
        assert!((largest / rate - 1.0).abs() < 1e-3, "{name}: {largest}");
    }
    let scalars = std::fs::read_to_string(project.path("run/scalars.jsonl")).expect("written");
    for tag in ["grad_norm/unet\"", "grad_norm/text_encoder.plus\"", "weight_norm/average", "weight_norm/max"] {
        assert!(scalars.contains(tag), "{tag}: {scalars}");
    }
}

#[test]
fn a_text_encoder_stands_still_after_its_last_step_and_resuming_changes_nothing() {
    for settings in [FULL, LORA] {
        let project = Project::new(settings);
        let section = if settings == FULL { "full" } else { "lora" };
        let trains = format!("{section}.train_text_encoder=true");
        let stops = [trains.as_str(), "train.max_steps=6", "train.max_text_encoder_steps=2"];
        let whole = project.trace("whole", &stops);
        let two = project.trace("two", &[&trains, "train.max_steps=2"]);
        let mut text = 0;
        let after_two = tensors(&two, "final.");
        for (name, tensor) in tensors(&whole, "final.") {
            let same = tensor.equal(&after_two[&name]);
            assert_eq!(same, name.starts_with("text_encoder."), "{name}");
            text += usize::from(same);
        }
        assert!(text > 0);
        let lr = |step: u64| tensor(&whole, &format!("step.{step}.lr")).double_value(&[1]);
        assert!(lr(2) > 0.0 && lr(3) == 0.0);
        // The same run from its checkpoint at step 4, where the text encoder has stood still for two steps.
        let last = tensors(&whole, "final.");
        let checkpoint = ResumePolicy::From(project.path("whole/checkpoints/step-000004"));
        let resumed = project.run_from("whole", &stops, checkpoint).expect("it goes on");
        assert!(resumed.info("step.5.loss").is_some() && resumed.info("step.4.loss").is_none());
        for (name, tensor) in tensors(&resumed, "final.") {
            assert!(tensor.equal(&last[&name]), "{name} after resuming");
        }
    }
}

#[test]
fn rates_of_networks_are_told_apart() {
    let project = Project::new(FULL);
    let changes =
        ["full.train_text_encoder=true", "full.unet_learning_rate=2e-4", "full.text_encoder_learning_rate=5e-5"];
    project.trace("run", &changes);
    let metrics = std::fs::read_to_string(project.path("run/metrics.jsonl")).expect("written");
    assert!(metrics.contains("\"lr\":{\"text_encoder\":0.00005,\"unet\":0.0002}"), "{metrics}");
    let product = SafetensorsFile::open(project.path("run/run.safetensors")).expect("the product");
    assert_eq!(
        (product.metadata()["ss_unet_lr"].as_str(), product.metadata()["ss_text_encoder_lr"].as_str()),
        ("0.0002", "0.00005")
    );
}

/// A configuration that nobody checked, as of who writes one in Rust: it is refused before pictures are encoded.
#[test]
fn rates_that_do_not_go_together_are_refused_before_anything_is_cached() {
    let project = Project::new(FULL);
    let overrides = [
        format!("model.path={}", tiny().display()),
        format!("data.cache_dir={}", project.path("cache").display()),
        "full.train_text_encoder=true".to_string(),
        "optimizer.type=prodigy".to_string(),
    ];
    let mut config = TrainConfig::load(&project.path("run.toml"), &overrides).expect("it is right").config;
    config.full.unet_learning_rate = Some(0.5);
    let options = RunOptions { output: project.path("run"), device: "cpu".into(), resume: ResumePolicy::Auto };
    let error = train(config, &options).expect_err("they differ").to_string();
    assert!(error.contains("`prodigy` finds one rate for all that is trained"), "{error}");
    let cached = std::fs::read_dir(project.path("cache")).into_iter().flatten().count();
    assert_eq!(cached, 0);
}

#[test]
fn a_list_of_sd1s_length_trains_the_same_blocks_of_a_smaller_unet() {
    let project = Project::new(FULL);
    // Block 4 is level 1, layer 0 in SD1's numbers; 3 in the tiny model's own.
    let rates = |count: usize, trained: usize| {
        let list: Vec<String> = (0..count).map(|block| if block == trained { "1e-4" } else { "0" }.into()).collect();
        format!("blocks.learning_rates=[{}]", list.join(", "))
    };
    let (own, sd1) = (project.trace("own", &[&rates(9, 3)]), project.trace("sd1", &[&rates(25, 4)]));
    let moved_by_own = moved(&own);
    assert!(!moved_by_own.is_empty() && moved_by_own.iter().all(|name| name.starts_with("unet.down_blocks.1.")));
    assert_eq!(moved(&sd1), moved_by_own);
    for (name, tensor) in tensors(&own, "final.") {
        assert!(tensor.equal(&tensors(&sd1, &format!("final.{name}"))[""]), "{name}");
    }
}

#[test]
fn layers_that_an_adapter_file_lacks_get_the_adapters_that_a_new_run_would_give_them() {
    let project = Project::new(LORA);
    let first = project.trace("first", &["lora.alpha=1"]);
    let file = format!("lora.initial={}", project.path("first/run.safetensors").display());
    let more = ["lora.train_text_encoder=true", "lora.convolutions=true", "precision.save=fp32"];
    let mut changes = vec![file.as_str()];
    changes.extend(more);
    let (second, new) = (project.trace("second", &changes), project.trace("new", &more));
    let (of_file, began, new) = (tensors(&first, "final."), tensors(&second, "initial."), tensors(&new, "initial."));
    assert!(began.keys().eq(new.keys()), "every layer that is asked for has one");
    let (mut kept, mut added) = (0, 0);
    for (name, tensor) in &began {
        match of_file.get(name) {
            // The product holds 16 bits of it.
            Some(learned) => {
                kept += 1;
                assert!(tensor.isclose(learned, 1e-2, 1e-6, false).all().int64_value(&[]) == 1, "{name}");
            }
            None => {
                added += 1;
                assert!(tensor.equal(&new[name]), "{name}");
            }
        }
    }
    assert!(kept == of_file.len() && added > 0, "{kept} and {added}");
    // Alphas of the file stay, new ones follow the rank.
    let product = SafetensorsFile::open(project.path("second/run.safetensors")).expect("the product");
    let alpha = |name: &str| tensor(&product, name).double_value(&[]);
    let of_unet = product.names().into_iter().find(|name| name.contains("attn1_to_q.alpha")).expect("it has one");
    let of_text = product.names().into_iter().find(|name| name.starts_with("lora_te_") && name.ends_with(".alpha"));
    assert_eq!((alpha(of_unet), alpha(of_text.expect("it has one"))), (1.0, 2.0));
}

#[test]
fn a_number_that_an_adapter_file_decides_otherwise_is_refused() {
    let project = Project::new(LORA);
    project.trace("first", &["lora.alpha=1"]);
    let file = format!("lora.initial={}", project.path("first/run.safetensors").display());
    for (change, expected) in [
        ("lora.alpha=8", "has alpha 1, but `lora.alpha` is 8"),
        ("lora.rank=4", "has rank 2, but `lora.rank` is 4"),
        ("lora.kind=loha", "is of kind `lora`, but `lora.kind` is `loha`"),
    ] {
        let message = project.run("second", &[&file, change]).err().expect("somebody is mistaken");
        assert!(message.ends_with(expected), "{message}");
    }
}

#[test]
fn a_folder_of_diffusers_says_how_it_was_made_as_a_file_does() {
    let project = Project::new(FULL);
    project.trace("run", &["full.format=diffusers"]);
    for weights in ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"] {
        let file = SafetensorsFile::open(project.path("run/run").join(weights)).expect("the product");
        let metadata = file.metadata();
        assert_eq!((metadata["ss_steps"].as_str(), metadata["format"].as_str()), ("2", "pt"), "{weights}");
    }
}
