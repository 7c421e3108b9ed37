//! Weights in bf16, updates within the backward pass, and blocks that are computed again: whole runs of the tiny model.

use crate::replay::{project, run, tensor};
use sdtrain_recipe::{StoredType, TrainConfig};
use sdtrain_state_dict::{Reader, SafetensorsFile};
use sdtrain_trainer::Error;
use std::path::Path;
use tch::Kind;

const FULL: &str = "trace_full";
const BF16: [&str; 2] = ["precision.compute=bf16", "precision.weights=bf16"];

fn trace(name: &str, folder: &Path, changes: &[&str]) -> SafetensorsFile {
    run(name, folder, changes).unwrap_or_else(|error| panic!("{changes:?}: {error}"))
}

/// Trained tensors, losses and gradient norms.
fn assert_same(found: &SafetensorsFile, expected: &SafetensorsFile) {
    for name in expected.names() {
        let kind = name.rsplit('.').next().unwrap_or_default();
        if name.starts_with("final.") || ["loss", "grad_norm"].contains(&kind) {
            assert!(tensor(found, name).equal(&tensor(expected, name)), "{name} differs");
        }
    }
}

/// How far the weights have gone, and how far those of two runs are apart.
fn distances(a: &SafetensorsFile, b: &SafetensorsFile) -> (f64, f64) {
    let (mut way, mut apart) = (0.0, 0.0);
    for name in a.names().into_iter().filter(|name| name.starts_with("final.")) {
        let square = |t: tch::Tensor| t.square().sum(Kind::Double).double_value(&[]);
        let (first, second) = (tensor(a, name), tensor(b, name));
        way += square(&first - tensor(a, &name.replacen("final.", "initial.", 1)));
        apart += square(first - second);
    }
    (way.sqrt(), apart.sqrt())
}

#[test]
fn a_whole_unet_in_bf16_learns_as_one_in_fp32_where_it_is_not_rounded_to_nearest() {
    let folder = project();
    // Steps of a thousandth of a weight's size, a quarter of the distance between two numbers of bf16.
    let rate = "optimizer.learning_rate=1e-4";
    let wide = trace(FULL, folder.path(), &[rate, "precision.compute=bf16"]);
    let apart = |rounding: &str| {
        let folder = project();
        let rounding = format!("precision.rounding={rounding}");
        let narrow = trace(FULL, folder.path(), &[BF16[0], BF16[1], rate, &rounding]);
        for step in [1, 10] {
            let loss = |trace| tensor(trace, &format!("step.{step}.loss")).double_value(&[]);
            assert!((loss(&narrow) / loss(&wide) - 1.0).abs() < 0.05, "{rounding}, step {step}");
        }
        let (way, _) = distances(&narrow, &wide);
        let product = SafetensorsFile::open(folder.path().join("output").join(product_name(folder.path())));
        assert!(product.is_ok(), "{rounding}");
        way
    };
    let (expected, _) = distances(&wide, &wide);
    let [kahan, nearest] = ["kahan", "nearest"].map(apart);
    // Of what is learned nearest rounding loses most, and compensation keeps all but the last bits of bf16.
    assert!(nearest < 0.75 * expected, "{nearest:.2e} of {expected:.2e}");
    assert!(kahan > 0.75 * expected, "{kahan:.2e} of {expected:.2e}");
    assert!(apart("stochastic") > nearest);
}

fn product_name(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder.join("output")).expect("a run's folder").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.into_iter().find(|name| name.ends_with(".safetensors")).expect("a product")
}

#[test]
fn the_same_seed_gives_the_same_bits_in_bf16() {
    let changes = [BF16[0], BF16[1], "precision.optimizer_state=bf16"];
    let [first, second] = [(); 2].map(|()| trace(FULL, project().path(), &changes));
    assert_same(&first, &second);
}

#[test]
fn updates_within_the_backward_pass_are_those_of_a_plain_run() {
    for (name, more) in [
        (FULL, vec![]),
        (FULL, vec!["train.gradient_checkpointing=all"]),
        (FULL, vec![BF16[0], BF16[1], "precision.optimizer_state=bf16"]),
        (FULL, vec!["optimizer.type=adafactor"]),
        (FULL, vec![BF16[0], BF16[1], "optimizer.type=adafactor"]),
        ("trace_text_encoder", vec!["lora.module_dropout=0.3"]),
        ("trace_base_prediction_full", vec![]),
        ("trace_pivotal", vec![]),
    ] {
        let changes = |fused| [&more[..], &["train.max_grad_norm=0", fused]].concat();
        let plain = trace(name, project().path(), &changes("train.fused_backward=false"));
        let fused = trace(name, project().path(), &changes("train.fused_backward=true"));
        assert_same(&fused, &plain);
    }
}

#[test]
fn updates_within_the_backward_pass_are_refused_beside_what_needs_all_gradients() {
    let text = "[model]\npath = \"builtin:poster-tiny\"\n[[data.subsets]]\npath = \".\"\n[train]\nmax_steps = 1\n";
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("run.toml"), text).expect("there is room");
    let problems = |changes: &[&str]| {
        let changes: Vec<String> = changes.iter().map(|change| change.to_string()).collect();
        TrainConfig::load(&folder.path().join("run.toml"), &changes).err().map(|error| error.to_string())
    };
    let fused = "train.fused_backward=true";
    for (changes, hint) in [
        (vec![], "set `train.max_grad_norm = 0`"),
        (vec!["train.gradient_accumulation_steps=2"], "set `train.gradient_accumulation_steps = 1`"),
        (vec!["precision.compute=fp16"], "set `precision.compute = \"bf16\"`"),
        (vec!["optimizer.type=prodigy"], "choose another `optimizer.type`, such as `adafactor`"),
        (vec!["optimizer.type=dadapt_adam"], "choose another `optimizer.type`, such as `adafactor`"),
    ] {
        let said = problems(&[&[fused][..], &changes].concat()).expect("it is refused");
        assert!(said.contains("train.fused_backward") && said.contains(hint), "{said}");
    }
    assert_eq!(problems(&[fused, "train.max_grad_norm=0"]), None);
    // The way out of the last two, with its defaults.
    assert_eq!(problems(&[fused, "train.max_grad_norm=0", "optimizer.type=adafactor"]), None);
    let said = problems(&["precision.weights=bf16", "precision.compute=fp16"]).expect("it is refused");
    assert!(said.contains("precision.weights"), "{said}");
    let said = problems(&["precision.rounding=kahan"]).expect("nothing is rounded");
    assert!(said.contains("set `precision.weights = \"bf16\"`"), "{said}");
    assert_eq!(TrainConfig::default().precision.weights, StoredType::Fp32);
}

#[test]
fn a_loss_that_is_no_number_within_the_backward_pass_is_skipped() {
    let folder = project();
    let spoiled = crate::not_finite::spoiled(folder.path(), &[4], f64::NAN);
    let changes = ["train.fused_backward=true", "train.max_grad_norm=0", &spoiled];
    let trace = trace("trace", folder.path(), &changes);
    assert!(tensor(&trace, "step.4.loss").isnan().int64_value(&[]) == 1);
    assert!(tensor(&trace, "step.5.loss").isfinite().int64_value(&[]) == 1);
    let ended = run("trace", project().path(), &[&changes[..], &["train.max_skipped_steps=0"]].concat());
    assert!(matches!(ended, Err(Error::NotFinite { step: 4, .. })));
}

#[test]
fn blocks_that_are_computed_again_change_no_bit() {
    let all = ["none", "high_resolution", "all", "false", "true"].map(|blocks| {
        trace("trace_text_encoder", project().path(), &[&format!("train.gradient_checkpointing={blocks}")])
    });
    all[1..].iter().for_each(|other| assert_same(other, &all[0]));
}
