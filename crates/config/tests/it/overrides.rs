//! `--set`: what a value on the command line may look like and what it replaces.

use std::fs;

use sdtrain_config::{Document, Problems};

use crate::sections::{Config, Optimizer, Resolution};

const FILE: &str = "[model]\npath = \"m\"\n[data]\nresolution = 128\n[[data.subsets]]\npath = \"a\"\n\
                    [optimizer]\ntype = \"sgd\"\nmomentum = 0.5\n";

fn load(overrides: &[&str]) -> Result<Config, Problems> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("run.toml");
    fs::write(&path, FILE).expect("a new file");
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Document::load(&path, &overrides)?.parse()
}

fn messages(overrides: &[&str]) -> String {
    load(overrides).expect_err("something is wrong").to_string()
}

#[test]
fn values_are_toml_and_bare_words_are_text() {
    let config = load(&[
        "name=my lora",
        "model.path=../models/a.safetensors",
        "data.resolution=[64, 32]",
        "train.max_steps = 20",
        "train.prompts=[\"a, b\"]",
        "optimizer.learning_rate=1e-5",
        "data.subsets.0.shuffle_caption=true",
        "model.vae=\"quoted\"",
    ])
    .expect("all are right");
    assert_eq!(config.name, "my lora");
    assert_eq!(config.model.path, "../models/a.safetensors");
    assert_eq!(config.data.resolution, Resolution::Size([64, 32]));
    assert_eq!(config.train.max_steps, Some(20));
    assert_eq!(config.train.prompts, ["a, b"]);
    assert!(config.data.subsets[0].shuffle_caption);
    assert_eq!(config.data.subsets[0].path, "a");
    assert!(matches!(config.optimizer, Optimizer::Sgd(sgd) if sgd.learning_rate == 1e-5 && sgd.momentum == 0.5));
}

#[test]
fn the_last_override_wins() {
    assert_eq!(load(&["name=a", "name=b"]).expect("right").name, "b");
}

#[test]
fn an_entry_can_be_added_behind_the_last_one() {
    let config = load(&["data.subsets.1.path=b", "data.subsets.1.repeats=3"]).expect("right");
    assert_eq!(config.data.subsets.len(), 2);
    assert_eq!((config.data.subsets[1].path.as_str(), config.data.subsets[1].repeats), ("b", 3));
    assert_eq!(
        messages(&["data.subsets.2.path=b"]),
        "error: `--set data.subsets.2.path=b`: the list has 1 entries, so there is no entry `2`\n  \
         hint: entries are counted from 0"
    );
}

#[test]
fn another_type_starts_its_table_afresh() {
    let config = load(&["optimizer.type=adamw", "optimizer.weight_decay=0.5"]).expect("right");
    assert!(matches!(config.optimizer, Optimizer::AdamW(adamw) if adamw.weight_decay == 0.5));
}

#[test]
fn what_the_command_line_says_before_another_type_stays() {
    let config = load(&["optimizer.weight_decay=0.5", "optimizer.type=adamw"]).expect("right");
    assert!(matches!(config.optimizer, Optimizer::AdamW(adamw) if adamw.weight_decay == 0.5));
}

#[test]
fn a_table_adds_to_the_table_of_the_file() {
    let config = load(&["optimizer={ learning_rate = 2.0 }"]).expect("right");
    assert!(matches!(config.optimizer, Optimizer::Sgd(sgd) if sgd.learning_rate == 2.0 && sgd.momentum == 0.5));
}

#[test]
fn a_mistake_names_the_override() {
    assert_eq!(
        messages(&["train.max_step=5", "name=7"]),
        "error: `--set name=7`: `name` must be text, not 7\n  hint: quote it twice, once for the shell: '\"7\"'\n\
         error: `--set train.max_step=5`: unknown key `train.max_step`\n  hint: did you mean `max_steps`?"
    );
}

#[test]
fn arguments_that_are_not_overrides_are_all_shown() {
    assert_eq!(
        messages(&["train.max_steps", "=5", "train.prompts=[\"a", "name.first=x"]),
        "error: `--set train.max_steps` has no `=`\n  hint: write `--set train.max_steps=200`\n\
         error: `--set =5` has no complete key before `=`\n  hint: write `--set train.max_steps=200`\n\
         error: `--set train.prompts=[\"a`: unclosed array, expected `]`\n  \
         hint: the value is TOML, and the shell takes away quotes that are not quoted themselves"
    );
    assert_eq!(
        messages(&["data.resolution.x=1"]),
        "error: `--set data.resolution.x=1`: there is nothing below a plain value, so no `x`"
    );
}

#[test]
fn an_empty_value_is_empty_text() {
    assert_eq!(load(&["name="]).expect("right").name, "");
}
