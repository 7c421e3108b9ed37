//! The configurations of `configs/presets`, with the tiny models of the fixtures in the place of those that they name.

use crate::project::{Project, fixture};
use std::fs;
use std::path::{Path, PathBuf};

/// A preset run for two steps with `changes`, in a project whose images have their captions in a table as well.
fn run(name: &str, changes: &[String]) -> Project {
    let project = Project::new();
    let row = |index: usize| {
        format!(
            "{{\"file_name\": \"{index}.png\", \"zh_prompt\": \"一幅油画，猫\", \"text\": \"サラリーマン 油絵\"}}\n"
        )
    };
    project.write("images/metadata.jsonl", &(0..6).map(row).collect::<String>());
    let file = presets().join(name).display().to_string();
    let images = format!("data.subsets.0.path={}", project.path("images").display());
    let small = [
        "data.resolution=64",
        "train.max_steps=2",
        "samples.steps=2",
        "checkpoint.every_steps=1",
        "train.threads=1",
        &images,
    ];
    let mut args = vec!["--config", file.as_str()];
    args.extend(small.into_iter().chain(changes.iter().map(String::as_str)).flat_map(|change| ["--set", change]));
    project.expect(0, &args);
    project
}

fn presets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/presets")
}

fn set(key: &str, path: &str) -> String {
    format!("{key}={}", fixture(path).display())
}

/// Whether a run is finished, and drew its pictures.
fn is_whole(project: &Project, folder: &str, product: &str) {
    let record = fs::read_to_string(project.path(folder).join("run.json")).expect("a record");
    assert!(record.contains("\"outcome\": \"finished\"") && record.contains("\"steps\": 2"), "{record}");
    for file in [product, "samples/grid.png"] {
        assert!(project.path(folder).join(file).is_file(), "{folder}/{file}");
    }
}

#[test]
fn the_chinese_fine_tuning_runs() {
    let project = run("chinese_finetune.toml", &[set("model.path", "tiny_taiyi")]);
    is_whole(&project, "outputs/chinese_finetune", "chinese_finetune.safetensors");
}

#[test]
fn the_pretraining_on_a_domain_runs() {
    let project = run("domain_pretraining.toml", &[set("model.path", "tiny_pai")]);
    is_whole(&project, "outputs/domain_pretraining", "domain_pretraining.safetensors");
}

#[test]
fn the_two_stages_of_a_new_text_encoder_run() {
    let changes = [
        set("model.path", "tiny_pai"),
        set("model.text_encoder", "tiny_japanese"),
        set("model.tokenizer", "tiny_japanese/tokenizer"),
        "data.batch_size=2".to_owned(),
        "stages.text_encoder.train.max_steps=2".to_owned(),
        "stages.joint.train.max_steps=2".to_owned(),
    ];
    let project = run("japanese_two_stages.toml", &changes);
    for stage in ["text_encoder", "joint"] {
        let product = format!("japanese_two_stages-{stage}.safetensors");
        is_whole(&project, &format!("outputs/japanese_two_stages/{stage}"), &product);
    }
}
