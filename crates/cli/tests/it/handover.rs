//! `train`, `sample` and `evaluate`: what is refused here, and what reaches the engine.

use std::fs;
use std::path::PathBuf;

use crate::project::{CONFIG, Project};

/// A copy of the program with an engine beside it that repeats its arguments and ends with 75.
fn with_engine(project: &Project) -> PathBuf {
    project.with_engine("echo \"engine:$*\"\nexit 75")
}

#[test]
fn the_engine_gets_the_same_arguments_and_its_exit_code_counts() {
    let project = Project::new();
    let program = with_engine(&project);
    for args in [
        &["--config", "run.toml", "--set", "seed=7"][..],
        &["train", "--config", "run.toml", "--output", "out", "--resume", "never"],
        &["evaluate", "--config", "run.toml", "--checkpoint", "run.toml"],
        &["sample", "--model", "model", "--prompt", "x", "--output", "out"],
        &["dataset", "cache", "--config", "run.toml", "--set", "data.cache_dir=cache", "--import-npz"],
    ] {
        let answer = project.run_program(&program, args);
        assert_eq!(answer.code, Some(75), "{}", answer.stderr);
        assert_eq!(answer.stdout, format!("engine:{}\n", args.join(" ")));
    }
}

#[test]
fn a_picture_that_cannot_be_started_from_never_reaches_the_engine() {
    let project = Project::new();
    let program = with_engine(&project);
    let sample = ["sample", "--model", "model", "--prompt", "x", "--output", "out"];
    let from = ["--init-image", "images/0.png"];
    for (more, expected) in [
        (&["--init-image", "nowhere.png"][..], "`--init-image nowhere.png` does not exist"),
        (&["--mask", "images/0.png"], "--init-image <FILE>"),
        (&["--strength", "0.5"], "--init-image <FILE>"),
        (&[from[0], from[1], "--mask", "nowhere.png"], "`--mask nowhere.png` does not exist"),
        (&[from[0], from[1], "--strength", "0"], "`--strength` must be greater than 0 and at most 1, and is 0"),
        (&[from[0], from[1], "--strength", "1.5"], "`--strength` must be greater than 0 and at most 1, and is 1.5"),
        (
            &[from[0], from[1], "--strength", "0.03"],
            "with `--strength 0.03` none of 30 steps is left\n  hint: `--steps 34`",
        ),
    ] {
        let answer = project.run_program(&program, &[&sample[..], more].concat());
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(2), ""), "{more:?}");
        assert!(answer.stderr.contains(expected), "{more:?}: {}", answer.stderr);
    }
    let answer = project.run_program(&program, &[&sample[..], &from, &["--mask", "images/1.png"]].concat());
    assert_eq!(answer.code, Some(75), "{}", answer.stderr);
}

#[test]
fn a_wrong_configuration_never_reaches_the_engine() {
    let project = Project::new();
    project.write("run.toml", &CONFIG.replace("batch_size = 2", "batch_size = 0"));
    let program = with_engine(&project);
    let answer = project.run_program(&program, &["--config", "run.toml"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(2), ""));
    assert_eq!(answer.stderr, "error: run.toml:6: `data.batch_size` must be at least 1, not 0\n");
}

#[test]
fn a_cache_that_would_not_be_read_never_reaches_the_engine() {
    let project = Project::new();
    let program = with_engine(&project);
    let answer = project.run_program(&program, &["dataset", "cache", "--config", "run.toml"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(2), ""));
    assert!(answer.stderr.starts_with("error: `data.cache_dir` is not set"), "{}", answer.stderr);
    let set = ["--set", "method=\"vae\"", "--set", "data.cache_dir=cache"];
    let answer = project.run_program(&program, &[&["dataset", "cache", "--config", "run.toml"], &set[..]].concat());
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(2), ""));
    assert!(answer.stderr.contains("never reads latents from a cache"), "{}", answer.stderr);
    // Before anything is deleted for want of it.
    let set = ["--set", "data.cache_dir=cache", "--prune", "--keep-for", "none.toml"];
    let answer = project.run_program(&program, &[&["dataset", "cache", "--config", "run.toml"], &set[..]].concat());
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(2), ""));
    assert!(answer.stderr.contains("none.toml"), "{}", answer.stderr);
}

#[test]
fn a_model_for_editing_by_instruction_never_reaches_the_engine() {
    let project = Project::new();
    let program = with_engine(&project);
    let config = fs::read_to_string(project.path("model/unet/config.json")).expect("written");
    project.write("model/unet/config.json", &config.replacen('{', "{\"in_channels\": 8, ", 1));
    for args in [
        &["train", "--config", "run.toml"][..],
        &["evaluate", "--config", "run.toml"],
        &["dataset", "cache", "--config", "run.toml", "--set", "data.cache_dir=cache"],
    ] {
        let answer = project.run_program(&program, args);
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(
            answer.stderr.contains("(InstructPix2Pix, 8 input channels), and no method trains that yet"),
            "{args:?}"
        );
    }
    assert!(!project.path("cache").exists());
}

#[test]
fn missing_files_of_sample_and_evaluate_are_all_named() {
    let project = Project::new();
    let answer =
        project.run(&["sample", "--model", "no", "--prompt", "x", "--output", "out", "--lora", "a:0.5", "--vae", "b"]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.starts_with("error: `--model`: `no` does not exist"), "{}", answer.stderr);
    assert!(answer.stderr.contains("error: `--lora a` does not exist\nerror: `--vae b` does not exist\n"));
    let answer = project.run(&["evaluate", "--config", "run.toml", "--checkpoint", "a", "--checkpoint", "b"]);
    assert_eq!(answer.code, Some(2));
    assert_eq!(answer.stderr, "error: `--checkpoint a` does not exist\nerror: `--checkpoint b` does not exist\n");
}

#[test]
fn an_engine_that_is_not_there_is_named_with_the_way_to_get_it() {
    let project = Project::new();
    let program = with_engine(&project);
    fs::remove_file(project.path("bin/sdtrain-engine")).expect("it is there");
    let answer = project.run_program(&program, &["--config", "run.toml"]);
    assert_eq!(answer.code, Some(70));
    assert_eq!(
        answer.stderr,
        "error: `sdtrain-engine` is missing: it should lie beside this program in `bin`\n  \
         hint: `scripts/run` builds both\n"
    );
}

#[test]
fn wrong_arguments_end_with_2_and_help_with_0() {
    let project = Project::new();
    assert_eq!(project.run(&["--confg", "run.toml"]).code, Some(2));
    assert_eq!(project.run(&["fly"]).code, Some(2));
    assert_eq!(project.run(&[]).code, Some(2));
    let help = project.run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.contains("Usage: sdtrain"));
}
