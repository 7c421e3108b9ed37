//! The numbers that make the recipes of `configs/presets`, as their sources give them: a default that changes, or a slip in a preset, is a
//! recipe that nobody published.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sdtrain_recipe::Plan;
use serde_json::{Value, json};

/// What makes a recipe, by section. A section's own tables (`[optimizer]`, `[lr_schedule]`) are compared whole.
const KEYS: [&str; 27] = [
    "method",
    "trainable",
    "model.path",
    "model.init",
    "model.text_encoder_init",
    "full.train_unet",
    "full.train_text_encoder",
    "full.targets",
    "full.freeze",
    "data.resolution",
    "data.resize",
    "data.batch_size",
    "data.bucketing.enabled",
    "data.subsets.0.caption_column",
    "data.subsets.0.flip",
    "data.subsets.0.caption_dropout_rate",
    "optimizer",
    "lr_schedule",
    "noise.offset",
    "loss.min_snr_gamma",
    "precision.compute",
    "precision.weights",
    "train.max_steps",
    "train.gradient_accumulation_steps",
    "train.gradient_checkpointing",
    "train.max_grad_norm",
    "ema",
];

/// The resolved keys of a run of their file.
type Recipe = BTreeMap<&'static str, Value>;

fn presets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/presets")
}

/// What each run of a preset resolves to, by its stage. Models and images need not be there.
fn resolved(name: &str, overrides: &[&str]) -> Vec<(Option<String>, Recipe)> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let plan = Plan::load_what_fits(&presets().join(name), &overrides).unwrap_or_else(|problems| panic!("{problems}"));
    let mut recipes = Vec::new();
    for (stage, parsed) in plan.runs {
        let run = parsed.value.expect("its keys have the right types");
        let config = serde_json::to_value(&run.loaded.config).expect("plain data is JSON");
        let value = |key: &str| config.pointer(&format!("/{}", key.replace('.', "/"))).cloned().unwrap_or(Value::Null);
        recipes.push((stage, KEYS.into_iter().map(|key| (key, value(key))).collect()));
    }
    recipes
}

fn recipe(keys: [(&'static str, Value); KEYS.len()]) -> Recipe {
    keys.into_iter().collect()
}

/// Those of `recipe` with other values of some keys.
fn with(recipe: &Recipe, keys: &[(&'static str, Value)]) -> Recipe {
    let mut changed = recipe.clone();
    for (key, value) in keys {
        assert!(changed.insert(*key, value.clone()).is_some(), "`{key}` is none of the keys");
    }
    changed
}

fn holds(name: &str, overrides: &[&str], expected: &[(Option<&str>, Recipe)]) {
    let found = resolved(name, overrides);
    let stages: Vec<_> = found.iter().map(|(stage, _)| stage.as_deref()).collect();
    assert_eq!(stages, expected.iter().map(|(stage, _)| *stage).collect::<Vec<_>>(), "{name}");
    for ((stage, found), (_, expected)) in found.iter().zip(expected) {
        for key in KEYS {
            assert_eq!(found[key], expected[key], "{name}, stage {stage:?}: `{key}`");
        }
    }
}

fn adamw(learning_rate: f64) -> Value {
    json!({"type": "adamw", "learning_rate": learning_rate, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01})
}

fn constant() -> Value {
    json!({"type": "constant", "warmup_steps": 0.0})
}

fn ema(enabled: bool) -> Value {
    json!({
        "enabled": enabled, "decay": 0.9999, "min_decay": 0.0, "warmup": "count", "inv_gamma": 1.0, "power": 2.0 / 3.0,
        "update_after_step": 0, "update_every": 1, "on_cpu": false, "save_raw": false,
    })
}

/// `train_zh_model.py` of svjack/Stable-Diffusion-Chinese-Extend: 256 pixels squeezed into a square and mirrored, batches of 4 × 4, AdamW at
/// 1e-5 with decay 1e-2, constant without warm-up, gradients clipped at 1, fp32, the UNet alone. Its running mean is never used, so there is
/// none.
fn svjack() -> Recipe {
    recipe([
        ("method", json!("full")),
        ("trainable", Value::Null),
        ("model.path", json!("hf:IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Chinese-v0.1")),
        ("model.init", json!("pretrained")),
        ("model.text_encoder_init", json!("pretrained")),
        ("full.train_unet", json!(true)),
        ("full.train_text_encoder", json!(false)),
        ("full.targets", json!(["*"])),
        ("full.freeze", json!([])),
        ("data.resolution", json!(256)),
        ("data.resize", json!("squeeze")),
        ("data.batch_size", json!(4)),
        ("data.bucketing.enabled", json!(false)),
        ("data.subsets.0.caption_column", json!("zh_prompt")),
        ("data.subsets.0.flip", json!(true)),
        ("data.subsets.0.caption_dropout_rate", json!(0.0)),
        ("optimizer", adamw(1e-5)),
        ("lr_schedule", constant()),
        ("noise.offset", json!(0.0)),
        ("loss.min_snr_gamma", Value::Null),
        ("precision.compute", json!("fp32")),
        ("precision.weights", json!("fp32")),
        ("train.max_steps", json!(28_000)),
        ("train.gradient_accumulation_steps", json!(4)),
        ("train.gradient_checkpointing", json!("all")),
        ("train.max_grad_norm", json!(1.0)),
        ("ema", ema(false)),
    ])
}

#[test]
fn the_chinese_fine_tuning_is_svjacks() {
    holds("chinese_finetune.toml", &[], &[(None, svjack())]);
    // The README of Stable-Diffusion-FineTuned-zh-v0, -v1 and -v2: single images, and so many steps.
    for steps in [10_000, 28_000, 56_000] {
        let max_steps = format!("train.max_steps={steps}");
        let single = [
            ("data.batch_size", json!(1)),
            ("train.gradient_accumulation_steps", json!(1)),
            ("train.max_steps", json!(steps)),
        ];
        let set = ["data.batch_size=1", "train.gradient_accumulation_steps=1", &max_steps];
        holds("chinese_finetune.toml", &set, &[(None, with(&svjack(), &single))]);
    }
}

/// `diffusion/diffusers_api/finetune.py` of alibaba/EasyNLP and its script: 512 pixels cut in the middle and mirrored, batches of 1 × 4, 15,000
/// steps at 1e-5, constant, fp16, gradient checkpointing, a running mean as diffusers keeps it; the text encoder stands still.
#[test]
fn the_pretraining_on_a_domain_is_easynlps() {
    let expected = with(
        &svjack(),
        &[
            ("model.path", json!("hf:alibaba-pai/pai-diffusion-artist-large-zh")),
            ("data.resolution", json!(512)),
            ("data.resize", json!("crop")),
            ("data.batch_size", json!(1)),
            ("data.subsets.0.caption_column", Value::Null),
            ("precision.compute", json!("fp16")),
            ("train.max_steps", json!(15_000)),
            ("ema", ema(true)),
        ],
    );
    holds("domain_pretraining.toml", &[], &[(None, expected)]);
}

/// The README of rinnakk/japanese-stable-diffusion: a new text encoder learns beside the frozen UNet, then both learn (PITI, arXiv:2205.12952).
/// Rates and steps were not published; those here are the preset's own.
#[test]
fn the_two_stages_of_a_new_text_encoder_are_rinnas() {
    let both = with(
        &svjack(),
        &[
            ("model.path", json!("hf:CompVis/stable-diffusion-v1-4")),
            ("model.text_encoder_init", json!("random")),
            ("full.train_text_encoder", json!(true)),
            ("data.resolution", json!(512)),
            ("data.resize", json!("crop")),
            ("data.batch_size", json!(8)),
            ("data.bucketing.enabled", json!(true)),
            ("data.subsets.0.caption_column", Value::Null),
            ("data.subsets.0.flip", json!(false)),
            ("precision.compute", json!("bf16")),
            ("train.max_steps", json!(100_000)),
            ("train.gradient_accumulation_steps", json!(1)),
        ],
    );
    let cosine = json!({"type": "cosine", "warmup_steps": 0.01, "min_ratio": 0.0, "cycles": 0.5});
    let alone = [("full.train_unet", json!(false)), ("optimizer", adamw(1e-4)), ("lr_schedule", cosine)];
    let expected = [(Some("text_encoder"), with(&both, &alone)), (Some("joint"), both)];
    holds("japanese_two_stages.toml", &[], &expected);
}

#[test]
fn every_preset_is_held_here() {
    let files = fs::read_dir(presets()).expect("the folder of presets").flatten();
    let mut names: Vec<String> = files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(".toml"));
    names.sort();
    assert_eq!(names, ["chinese_finetune.toml", "domain_pretraining.toml", "japanese_two_stages.toml"]);
}
