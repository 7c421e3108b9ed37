//! `sdtrain dataset inspect` and `sdtrain dataset clean`.

use serde_json::Value as Json;

use crate::project::Project;

fn json(text: &str) -> Json {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn a_data_set_is_counted_for_people_and_for_programs() {
    let project = Project::new();
    let answer = project.run(&["dataset", "inspect", "images"]);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""));
    assert!(answer.stdout.starts_with("4 images found, 4 kept; 4 batches an epoch\n"), "{}", answer.stdout);
    assert!(answer.stdout.contains("duplicates: 3 with the same bytes"), "{}", answer.stdout);
    let answer = project.run(&["dataset", "inspect", "--config", "run.toml", "--json"]);
    let report = json(&answer.stdout);
    assert_eq!(
        (&report["found"], &report["visits_per_epoch"], &report["batches_per_epoch"]),
        (&4.into(), &8.into(), &4.into())
    );
    assert_eq!(report["buckets"][0]["width"], 64);
    assert_eq!((&report["captions"]["from_file"], &report["captions"]["tokens"]["window"]), (&4.into(), &75.into()));
    assert_eq!(report["duplicates"][0]["copies"][0]["path"], "images/1.png");
}

#[test]
fn captions_are_counted_by_the_window_of_the_model() {
    let project = Project::new();
    project.write("images/0.txt", &"red ".repeat(100));
    let tokens = |more: &[&str]| {
        let answer = project.run(&[&["dataset", "inspect", "--config", "run.toml", "--json"], more].concat());
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let tokens = json(&answer.stdout)["captions"]["tokens"].clone();
        (tokens["window"].clone(), tokens["over_long"].clone())
    };
    assert_eq!(tokens(&[]), (75.into(), 1.into()));
    assert_eq!(tokens(&["--set", "model.max_token_length=150"]), (150.into(), 0.into()));
}

#[test]
fn an_inspection_writes_a_page() {
    let project = Project::new();
    let answer = project.run(&["dataset", "inspect", "images", "--html", "out/report.html"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let page = std::fs::read_to_string(project.path("out/report.html")).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.contains("a red bottle"));
}

#[test]
fn a_data_set_that_cannot_be_trained_on_is_still_looked_at() {
    let project = Project::new();
    project.write("images/4.png", "no picture");
    let answer = project.run(&["dataset", "inspect", "images", "--json"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let report = json(&answer.stdout);
    assert_eq!((&report["found"], &report["kept"], &report["unreadable"]), (&5.into(), &4.into(), &1.into()));
    assert_eq!(report["dropped"][0]["path"], "images/4.png");
    assert!(report["errors"][0].as_str().is_some_and(|error| error.starts_with("1 of 5 images cannot be read")));
    assert_eq!(report["batches_per_epoch"], Json::Null);
}

#[test]
fn a_folder_without_a_usable_image_ends_with_exit_code_3() {
    let project = Project::new();
    project.write("bad/a.png", "no picture");
    assert_eq!(project.run(&["dataset", "inspect", "bad"]).code, Some(3));
    project.write("empty/a.md", "nothing");
    assert_eq!(project.run(&["dataset", "inspect", "empty"]).code, Some(3));
}

#[test]
fn cleaning_shows_first_moves_when_told_to_and_undoes() {
    let project = Project::new();
    project.write_image("images/large.png", 600, 700);
    project.write("images/large.txt", "a large one");
    let args = ["dataset", "clean", "images", "--min-kilobytes-per-pixel", "0"];
    let answer = project.run(&args);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""));
    assert!(answer.stdout.starts_with("5 images looked at: 4 to take out, 1 stay\n"), "{}", answer.stdout);
    assert!(answer.stdout.contains("`min_side`  4"), "{}", answer.stdout);
    assert!(answer.stdout.contains("`images/0.png`: 64 × 64 pixels: a side under 512"), "{}", answer.stdout);
    assert!(answer.stdout.ends_with("with `--apply` they go to `images-removed`\n"), "{}", answer.stdout);
    assert!(project.path("images/0.png").exists());

    let answer = project.run(&[&args[..], &["--apply"]].concat());
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""));
    assert!(!project.path("images/0.png").exists() && project.path("images-removed/0.txt").exists());
    let undo = "images-removed/manifest-0001.jsonl";
    assert!(answer.stdout.ends_with(&format!("sdtrain dataset clean --undo {undo}\n")), "{}", answer.stdout);

    let answer = project.run(&["dataset", "clean", "--undo", undo]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), "8 files moved back\n"));
    assert!(project.path("images/0.png").exists() && project.path("images/0.txt").exists());
    assert_eq!(project.run(&["dataset", "clean", "--undo", "run.toml"]).code, Some(2));
}

#[test]
fn rules_come_from_the_configuration_and_options_win() {
    let project = Project::new();
    let text = std::fs::read_to_string(project.path("run.toml")).expect("a configuration");
    let off = "[data.clean]\nmin_side = 0\nmin_kilobytes_per_pixel = 0.0\nmin_dpi = 0.0\nduplicates = \"exact\"\n";
    project.write("run.toml", &format!("{text}{off}"));
    let rules = |more: &[&str]| {
        let answer = project.run(&[&["dataset", "clean", "--config", "run.toml", "--json"], more].concat());
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let removals = json(&answer.stdout)["plan"]["removals"].clone();
        removals.as_array().expect("a list").iter().map(|r| r["reasons"][0]["rule"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(rules(&[]), ["duplicates", "duplicates", "duplicates"]);
    assert!(rules(&["--duplicates", "keep"]).is_empty());
    assert_eq!(rules(&["--duplicates", "keep", "--set", "data.clean.min_side=65"]).len(), 4);
    assert_eq!(rules(&["--duplicates", "keep", "--min-side", "65"]).len(), 4);
    let answer = project.run(&["dataset", "clean", "images", "--max-aspect", "0.5"]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.starts_with("error: `--max-aspect` must be 0 or at least 1, not 0.5"), "{}", answer.stderr);
}

#[test]
fn taking_out_every_image_is_refused_with_exit_code_3() {
    let project = Project::new();
    let answer = project.run(&["dataset", "clean", "images", "--apply"]);
    assert_eq!(answer.code, Some(3));
    assert!(answer.stderr.starts_with("error: all 4 images would be taken out"), "{}", answer.stderr);
    assert!(project.path("images/0.png").exists() && !project.path("images-removed").exists());
}
