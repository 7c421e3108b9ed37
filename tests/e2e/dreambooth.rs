//! A subject and its class: class images that are drawn once, and what is kept without them.

use crate::project::{Project, fixture};
use std::fs;
use std::path::PathBuf;

const DREAMBOOTH: &[&str] = &[
    "--set",
    "method=\"dreambooth\"",
    "--set",
    "trainable=\"lora\"",
    "--set",
    "dreambooth.class_prompt=\"small picture\"",
    "--set",
    "dreambooth.num_class_images=5",
    "--set",
    "dreambooth.steps=2",
    "--set",
    "dreambooth.class_data_dir=\"class\"",
    "--set",
    "samples.prompts=[]",
];

fn train(project: &Project, code: i32, output: &str, more: &[&str]) -> String {
    let args = [&["--config", "run.toml", "--output", output], DREAMBOOTH, more].concat();
    project.expect(code, &args).1
}

fn class_image(project: &Project, index: usize) -> PathBuf {
    project.path(&format!("class/class-{index:05}.png"))
}

fn bytes(project: &Project, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| fs::read(class_image(project, index)).unwrap()).collect()
}

fn losses(project: &Project, output: &str) -> Vec<String> {
    let metrics = fs::read_to_string(project.path(output).join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].to_string();
    metrics.lines().map(loss).collect()
}

#[test]
fn class_images_are_drawn_once_and_only_what_is_missing() {
    let project = Project::new();
    let said = train(&project, 0, "first", &[]);
    assert!(said.contains("0 of 5 are in") && said.contains("drew 5 of 5 class images"), "{said}");
    // Six images of the subject are seen in an epoch, and as many of the class.
    assert!(said.contains("11 images found, 11 kept (5 of them for regularization)"), "{said}");
    let drawn = bytes(&project, 5);
    assert!(drawn.windows(2).all(|pair| pair[0] != pair[1]), "each has its own seed");
    let text = String::from_utf8_lossy(&drawn[3]).into_owned();
    assert!(text.contains("parameters\0small picture\n") && text.contains("Seed: 3,"), "{text:.600}");
    let said = train(&project, 0, "again", &["--set", "seed=8"]);
    assert!(!said.contains("class images:"), "{said}");
    fs::remove_file(class_image(&project, 1)).unwrap();
    fs::remove_file(class_image(&project, 3)).unwrap();
    let said = train(&project, 0, "third", &[]);
    assert!(said.contains("3 of 5 are in") && said.contains("drawing 2"), "{said}");
    assert!(drawn == bytes(&project, 5), "the same pictures come back, to the bit");
    assert_eq!(losses(&project, "first"), losses(&project, "third"));
}

#[test]
fn drawing_that_was_killed_goes_on_to_the_same_pictures() {
    let project = Project::new();
    let many = ["--set", "dreambooth.num_class_images=40", "--set", "train.max_steps=1"];
    train(&project, 0, "whole", &many);
    let whole = bytes(&project, 40);
    fs::remove_dir_all(project.path("class")).unwrap();
    let args = [&["--config", "run.toml", "--output", "killed"], DREAMBOOTH, &many].concat();
    let running = project.start(&args);
    running.wait_for(|| class_image(&project, 2).exists());
    running.kill();
    assert!(!class_image(&project, 39).exists(), "it was killed too late to show anything");
    let said = train(&project, 0, "killed", &many);
    assert!(said.contains(" of 40 are in") && !said.contains(" 0 of 40"), "{said}");
    assert!(whole == bytes(&project, 40));
}

#[test]
fn class_images_of_another_model_prompt_or_sampler_are_refused() {
    let project = Project::new();
    train(&project, 0, "first", &["--set", "train.max_steps=1"]);
    let mut other = fs::read(fixture("tiny_sd1/vae/diffusion_pytorch_model.safetensors")).unwrap();
    let last = other.len() - 2;
    other[last] ^= 1;
    fs::write(project.path("other.safetensors"), other).unwrap();
    for (change, expected) in [
        ("dreambooth.class_prompt=\"a dog\"", "with `prompt` \"small picture\" instead of \"a dog\""),
        ("dreambooth.steps=3", "with `steps` 2 instead of 3"),
        ("dreambooth.sampler=\"euler\"", "with `sampler` \"PNDMScheduler\" instead of \"euler\""),
        ("dreambooth.seed=1", "with `seed` 0 instead of 1"),
        ("model.clip_skip=2", "with `clip_skip` 1 instead of 2"),
        ("model.vae=\"other.safetensors\"", "with another model"),
    ] {
        let said = train(&project, 2, "second", &["--set", change]);
        assert!(said.contains("class-00000.png` was drawn otherwise") && said.contains(expected), "{change}: {said}");
        assert!(said.contains("hint: set another `dreambooth.class_data_dir`"), "{said}");
    }
    fs::copy(project.path("images/1.png"), class_image(&project, 4)).unwrap();
    let said = train(&project, 2, "second", &[]);
    assert!(said.contains("class-00004.png` has the name of a drawn class image, but does not say how"), "{said}");
}

#[test]
fn images_of_ones_own_count_as_class_images() {
    let project = Project::new();
    fs::create_dir(project.path("class")).unwrap();
    for name in ["a.png", "b.png"] {
        fs::copy(project.path("images/1.png"), project.path("class").join(name)).unwrap();
    }
    let said = train(&project, 0, "mixed", &["--set", "train.max_steps=1"]);
    assert!(said.contains("0 of 3 are in") && said.contains("(5 of them for regularization)"), "{said}");
    let table = fs::read_to_string(project.path("mixed/class_images.jsonl")).unwrap();
    assert_eq!(table.lines().count(), 5);
    assert!(table.ends_with("{\"file_name\":\"b.png\",\"text\":\"small picture\"}\n"), "{table}");
    let said = train(&project, 0, "own", &["--set", "dreambooth.num_class_images=2", "--set", "train.max_steps=1"]);
    assert!(said.contains("(2 of them for regularization)"), "{said}");
}

#[test]
fn at_first_a_lora_answers_as_the_base_and_later_the_base_holds_it() {
    let project = Project::new();
    let rate = ["--set", "optimizer.learning_rate=0.01"];
    let kept = ["--set", "dreambooth.prior=\"base_prediction\""];
    train(&project, 0, "kept", &[&kept[..], &rate].concat());
    train(&project, 0, "free", &[&["--set", "dreambooth.prior=\"none\""], &rate[..]].concat());
    assert!(!project.path("class").exists(), "no class image is drawn");
    let (kept_losses, free) = (losses(&project, "kept"), losses(&project, "free"));
    // An adapter begins with zeros, so the distance to the base is exactly 0.
    assert_eq!(kept_losses[0], free[0]);
    assert_ne!(kept_losses[1..], free[1..]);
    let more = [&kept[..], &rate, &["--set", "lora.train_text_encoder=true"]].concat();
    train(&project, 0, "kept_text", &more);
    let full = ["--set", "trainable=\"full\"", "--set", "full.train_text_encoder=true"];
    train(&project, 0, "kept_full", &[&kept[..], &full].concat());
    assert!(project.path("kept_full/run.safetensors").is_file());
}

#[test]
fn check_says_what_becomes_of_the_class() {
    let project = Project::new();
    let args = [&["check", "run.toml"], DREAMBOOTH].concat();
    let (said, _) = project.expect(0, &args);
    assert!(said.contains("class      5 images of \"small picture\" in `") && said.contains("weight 1"), "{said}");
    let (said, _) = project.expect(0, &[&args[..], &["--set", "dreambooth.num_class_images=20"]].concat());
    assert!(said.contains("warning: 14 are never seen; 4 times the `repeats` use all of them"), "{said}");
    let (said, _) = project.expect(0, &[&args[..], &["--set", "dreambooth.prior=\"base_prediction\""]].concat());
    assert!(said.contains("class      the base's prediction for \"small picture\", weight 1"), "{said}");
}
