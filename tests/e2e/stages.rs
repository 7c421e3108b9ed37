//! One configuration with stages: runs of their own, each from the product of the one before.

use crate::project::{Project, fixture};
use sdtrain_state_dict::{Reader, SafetensorsFile, read_floats};
use std::fs;

/// A new Japanese text encoder in the place of a Chinese one: alone first, then together with the UNet.
fn swapped() -> Project {
    let project = Project::new();
    project.write(
        "run.toml",
        &format!(
            "method = \"full\"\nseed = 7\n[model]\npath = \"{}\"\ntext_encoder = \"{}\"\ntext_encoder_init = \"random\"\n[data]\n\
             resolution = 64\nbatch_size = 2\n[[data.subsets]]\npath = \"images\"\n[train]\nthreads = 1\nmax_steps = 3\n\
             [optimizer]\nlearning_rate = 1e-3\n[checkpoint]\nevery_steps = 1\n[validation]\nevaluate_at_end = false\n\
             [[stages]]\nname = \"words\"\n[stages.full]\ntrain_unet = false\ntrain_text_encoder = true\n\
             [[stages]]\nname = \"both\"\n[stages.full]\ntrain_text_encoder = true\n[stages.train]\nmax_steps = 4\n",
            fixture("tiny_pai").display(),
            fixture("tiny_japanese").display()
        ),
    );
    project
}

fn product(project: &Project, stage: &str) -> SafetensorsFile {
    let file = format!("outputs/run/{stage}/run-{stage}.safetensors");
    SafetensorsFile::open(project.path(&file)).expect("a product")
}

/// Of the tensors behind `prefix` the largest difference.
fn difference(a: &SafetensorsFile, b: &SafetensorsFile, prefix: &str) -> f32 {
    let names: Vec<&str> = a.names().into_iter().filter(|name| name.starts_with(prefix)).collect();
    assert!(!names.is_empty(), "{prefix}");
    let of_tensor = |name: &&str| {
        let [a, b] = [a, b].map(|file| read_floats(file, name).expect("it is in both"));
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    names.iter().map(of_tensor).fold(0.0, f32::max)
}

const UNET: &str = "model.diffusion_model.";
const TEXT: &str = "cond_stage_model.";

#[test]
fn each_stage_is_a_run_that_begins_with_the_product_of_the_one_before() {
    let project = swapped();
    let (summary, _) = project.expect(0, &["check", "run.toml"]);
    for part in [
        "stage      `words`, 1 of 2",
        "stage      `both`, 2 of 2",
        "text_encoder: 36 tensors",
        "3 of up to 2",
        "4 of up to 2",
    ] {
        assert!(summary.contains(part), "`{part}` is not in\n{summary}");
    }
    let (_, said) = project.expect(0, &["--config", "run.toml"]);
    assert!(said.contains("stage 1 of 2: `words`") && said.contains("stage 2 of 2: `both`"), "{said}");
    let base = project.path("base.safetensors").display().to_string();
    project.expect(0, &["convert", &fixture("tiny_pai").display().to_string(), &base, "--to", "single-file"]);
    let base = SafetensorsFile::open(&base).expect("it was just written");
    let (words, both) = (product(&project, "words"), product(&project, "both"));
    // What is saved in fp16 is rounded once.
    assert!(difference(&base, &words, UNET) < 1e-3);
    assert!(difference(&words, &both, UNET) > 1e-4 && difference(&words, &both, TEXT) > 1e-4);
    let table = format!("{TEXT}transformer.text_model.embeddings.token_embedding.weight");
    assert_eq!(words.info(&table).expect("CLIP's").shape, [480, 16], "the new vocabulary");
    // The folder of a stage says all of its run: on its own it comes to the same bits.
    project.expect(0, &["--config", "outputs/run/both/config.toml", "--output", "again"]);
    let bytes = |path: &str| fs::read(project.path(path)).expect("a product");
    assert!(bytes("again/run-both.safetensors") == bytes("outputs/run/both/run-both.safetensors"));
    for folder in ["words", "both"] {
        for file in ["run.json", "metrics.jsonl", "checkpoints/latest", "config.toml"] {
            assert!(project.path(&format!("outputs/run/{folder}/{file}")).is_file(), "{folder}/{file}");
        }
    }
    // Finished is finished.
    let before = fs::read_to_string(project.path("outputs/run/words/run.json")).expect("a record");
    let (_, said) = project.expect(0, &["--config", "run.toml"]);
    assert_eq!(said.matches("holds this run, finished").count(), 2, "{said}");
    assert_eq!(fs::read_to_string(project.path("outputs/run/words/run.json")).expect("a record"), before);
    project.expect(0, &["--config", "run.toml", "--resume", "never", "--set", "stages.both.train.max_steps=1"]);
    assert!(project.path("outputs/run.1/both").is_dir() && project.path("outputs/run/both/config.toml").is_file());
    let (_, said) = project.expect(2, &["evaluate", "--config", "run.toml"]);
    assert!(said.contains("this file describes several runs, its stages, and one is asked for"), "{said}");
}

#[test]
fn a_training_that_is_stopped_goes_on_in_its_stage() {
    let project = swapped();
    project.expect(0, &["--config", "run.toml", "--output", "straight"]);
    let steps = ["train.max_steps=120", "stages.both.train.max_steps=120", "checkpoint.every_steps=0"];
    let mut long = vec!["--config", "run.toml"];
    long.extend(steps.iter().flat_map(|setting| ["--set", setting]));
    for stage in ["words", "both"] {
        let running = project.start(&long);
        let metrics = format!("outputs/run/{stage}/metrics.jsonl");
        running.wait_for(|| fs::read_to_string(project.path(&metrics)).is_ok_and(|text| text.lines().count() > 2));
        running.terminate();
        let (code, said) = running.end();
        assert_eq!(code, Some(75), "{said}");
    }
    assert!(
        project.path("outputs/run/words/run-words.safetensors").is_file(),
        "the first stage was finished on the way"
    );
    let (_, said) = project.expect(0, &long);
    assert!(said.contains("holds this run, finished") && said.contains("continuing after step"), "{said}");
    project.expect(0, &[&long[..], &["--output", "straight-120"]].concat());
    let bytes = |folder: &str, stage: &str| {
        fs::read(project.path(folder).join(format!("{stage}/run-{stage}.safetensors"))).expect("a product")
    };
    for stage in ["words", "both"] {
        assert!(bytes("outputs/run", stage) == bytes("straight-120", stage), "{stage}: it ends elsewhere");
    }
    // As if it had been killed between the two.
    let before = bytes("straight", "both");
    fs::remove_dir_all(project.path("straight/both")).expect("it is there");
    project.expect(0, &["--config", "run.toml", "--output", "straight"]);
    assert!(bytes("straight", "both") == before);
    // What follows from another product is not taken for this training's.
    fs::remove_dir_all(project.path("straight/words")).expect("it is there");
    let other = ["--config", "run.toml", "--output", "straight", "--set", "stages.words.train.max_steps=2"];
    let (_, said) = project.expect(4, &other);
    assert!(said.contains("began with other content of") && said.contains("--resume never"), "{said}");
}

#[test]
fn stages_of_adapters_train_them_on_or_fuse_them() {
    let project = Project::new();
    let common = fs::read_to_string(project.path("run.toml")).expect("it is there");
    let stages = "[[stages]]\nname = \"first\"\n[[stages]]\nname = \"second\"\noptimizer.learning_rate = 1e-5\n\
                  [[stages]]\nname = \"whole\"\nmethod = \"full\"\n";
    project.write("run.toml", &format!("{common}evaluate_at_end = false\n{stages}"));
    let quiet = ["--config", "run.toml", "--set", "train.max_steps=2", "--set", "samples.prompts=[]"];
    project.expect(0, &quiet);
    let config =
        |stage: &str| fs::read_to_string(project.path(&format!("outputs/run/{stage}/config.toml"))).expect("it ran");
    assert!(
        config("second").contains("outputs/run/first/run-first.safetensors") && config("second").contains("initial = ")
    );
    let whole = config("whole");
    assert!(whole.contains("[[model.fuse]]") && whole.contains("outputs/run/second/run-second.safetensors"), "{whole}");
    // A stage that is half done does not go on behind another product than it began with: as if it had been killed.
    let remove = |path: &str| fs::remove_file(project.path(path)).expect("it is there");
    fs::remove_dir_all(project.path("outputs/run/first")).expect("it is there");
    remove("outputs/run/second/run.json");
    let (_, said) = project.expect(4, &[&quiet[..], &["--set", "stages.first.train.max_steps=3"]].concat());
    assert!(said.contains("the adapters of `lora.initial` have changed since"), "{said}");
    // What a finished stage left is found by the name that it had, and missed by that.
    let again = [&quiet[..], &["--output", "named"]].concat();
    project.expect(0, &again);
    fs::remove_dir_all(project.path("named/whole")).expect("it is there");
    project.expect(0, &[&again[..], &["--set", "name=other"]].concat());
    let whole = fs::read_to_string(project.path("named/whole/config.toml")).expect("it ran");
    assert!(whole.contains("named/second/run-second.safetensors"), "{whole}");
    // Where everything behind it is done, nobody asks for it.
    let second = project.path("named/second/run-second.safetensors");
    let bytes = fs::read(&second).expect("it is there");
    remove("named/second/run-second.safetensors");
    let (_, said) = project.expect(0, &[&again[..], &["--set", "name=other"]].concat());
    assert!(said.matches("holds this run, finished;").count() == 3 && !second.exists(), "{said}");
    // Where something begins with it, it is written from the last checkpoint.
    fs::remove_dir_all(project.path("named/whole")).expect("it is there");
    let (_, said) = project.expect(0, &again);
    assert!(said.contains("run-second.safetensors` is not there: it is written from the checkpoint of"), "{said}");
    assert!(fs::read(&second).expect("it is written") == bytes);
    fs::remove_dir_all(project.path("named/whole")).expect("it is there");
    fs::remove_dir_all(project.path("named/second/checkpoints")).expect("it is there");
    remove("named/second/run-second.safetensors");
    let (_, said) = project.expect(4, &again);
    assert!(said.contains("run-second.safetensors` is not there") && said.contains("no whole checkpoint"), "{said}");
    assert!(!project.path("named/whole").exists(), "{said}");
    // What cannot follow is found before anything starts.
    let (_, said) = project.expect(
        2,
        &["check", "run.toml", "--set", "stages.second.lora.rank=2", "--set", "stages.whole.train.threads=3"],
    );
    assert!(said.contains("`lora.rank` is 2, but the adapters of the stage before have 4"), "{said}");
    assert!(said.contains("`train.threads` is the same in all stages"), "{said}");
    let (_, said) = project
        .expect(2, &["check", "run.toml", "--set", "train.max_steps=0", "--set", "stages.second.data.batch_size=0"]);
    assert_eq!(said.matches("`train.max_steps`").count(), 1, "what all share is said once: {said}");
    assert!(said.contains("stage `second`: "), "{said}");
}

/// A base is handed on from stage to stage, so that the last one may be the only one that needs the product of the first.
#[test]
fn the_product_of_a_finished_stage_is_written_anew_for_whatever_begins_with_it() {
    let project = Project::new();
    let common = fs::read_to_string(project.path("run.toml")).expect("it is there");
    let stages = "[[stages]]\nname = \"whole\"\nmethod = \"full\"\n[[stages]]\nname = \"first\"\n[[stages]]\nname = \"second\"\n";
    project.write("run.toml", &format!("{common}evaluate_at_end = false\n{stages}"));
    let one_step = ["--config", "run.toml", "--set", "train.max_steps=1", "--set", "samples.prompts=[]"];
    project.expect(0, &one_step);
    let path = |name: &str| project.path("outputs/run").join(name);
    let product = path("whole/run-whole.safetensors");
    let before = fs::read(&product).expect("a product");
    let expect_written = |args: &[&str]| {
        fs::remove_file(&product).expect("it is there");
        let (_, said) = project.expect(0, args);
        let named = "run-whole.safetensors` is not there: it is written from the checkpoint of step 1";
        assert!(said.contains(named) && fs::read(&product).is_ok_and(|now| now == before), "{said}");
        said
    };
    // The next one is done, and the one after it has not begun.
    fs::remove_dir_all(path("second")).expect("it is there");
    let said = expect_written(&one_step);
    assert_eq!(said.matches("holds this run, finished;").count(), 1, "{said}");
    // All are done, and the last one is prolonged, or sent back.
    let may_grow = "checkpoint.allow_changes=[\"train.max_steps\"]";
    let longer = [&one_step[..], &["--set", "stages.second.train.max_steps=2", "--set", may_grow]].concat();
    let said = expect_written(&longer);
    assert_eq!(said.matches("continuing after step 1").count(), 2, "{said}");
    let back = [&longer[..], &["--resume", "outputs/run/second/checkpoints/step-000001"]].concat();
    let said = expect_written(&back);
    assert!(said.contains("of later steps are set aside"), "{said}");
    // As if it had been killed while it wrote the product anew: that has the name by which others began with it.
    for file in ["whole/run-whole.safetensors", "whole/run.json"] {
        fs::remove_file(path(file)).expect("it is there");
    }
    let (_, said) = project.expect(0, &[&longer[..], &["--set", "name=other", "--output", "outputs/run"]].concat());
    assert!(fs::read(&product).is_ok_and(|now| now == before), "{said}");
    assert!(
        !path("whole/other-whole.safetensors").exists() && path("second/other-second.safetensors").is_file(),
        "{said}"
    );
}

#[test]
fn a_stage_that_learns_words_on_says_all_of_its_run() {
    let project = Project::new();
    let common = fs::read_to_string(project.path("run.toml")).expect("it is there");
    let words = "[[textual_inversion.tokens]]\nword = \"snorp\"\ninitial_words = \"picture\"\n";
    let stages = "[[stages]]\nname = \"first\"\n[[stages]]\nname = \"second\"\n";
    project.write("run.toml", &format!("{common}evaluate_at_end = false\n{words}{stages}"));
    let prefix = "data.subsets.0.caption_prefix=\"a snorp,\"";
    let settings = ["train.max_steps=2", "samples.prompts=[]", prefix];
    let mut arguments = vec!["--config", "run.toml"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    project.expect(0, &arguments);
    let config = fs::read_to_string(project.path("outputs/run/second/config.toml")).expect("it ran");
    assert!(config.contains("first/run-first-snorp.safetensors") && !config.contains("initial_words"), "{config}");
    project.expect(0, &["--config", "outputs/run/second/config.toml", "--output", "again"]);
    for file in ["run-second.safetensors", "run-second-snorp.safetensors"] {
        let [first, again] =
            ["outputs/run/second", "again"].map(|folder| fs::read(project.path(folder).join(file)).expect("a product"));
        assert!(first == again, "{file}");
    }
}
