//! Memory: what `sdtrain check` predicts is what a run takes, and pictures leave none behind.

use crate::project::Project;
use std::fs;
use std::path::Path;

/// `sdtrain check` may be so far from what a run reports.
const TOLERANCE: f64 = 0.15;

const PLAIN: &str = "[model]\npath = \"builtin:poster-tiny\"\n[train]\nmax_steps = 3\nthreads = 1\n[checkpoint]\nevery_steps = 0\n\
    [validation]\nevaluate_at_end = false\n[data]\nresolution = 128\nbatch_size = 4\n";

/// A project whose `posters.toml` trains the built-in base on these pictures of `datasets`.
fn project(pictures: &str, caption_prefix: &str) -> Project {
    let project = Project::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets").join(pictures);
    let subset = format!("[[data.subsets]]\npath = {folder:?}\ncaption_prefix = {caption_prefix:?}\n");
    project.write("posters.toml", &format!("{PLAIN}{subset}"));
    project
}

/// The gigabytes that `sdtrain check` says and those that the run took.
fn predicted_and_taken(project: &Project, set: &[&str]) -> (f64, f64) {
    let set: Vec<&str> = set.iter().flat_map(|change| ["--set", change]).collect();
    let (checked, _) = project.expect(0, &[&["check", "posters.toml"], &set[..]].concat());
    let line = checked.lines().find_map(|line| line.strip_prefix("memory")).expect("check says it");
    let predicted = line.trim_start().strip_prefix("about ").and_then(|line| line.split(' ').next());
    project.expect(0, &[&["--config", "posters.toml", "--output", "out", "--resume", "never"], &set[..]].concat());
    let record = fs::read_to_string(project.path("out/run.json")).expect("the run wrote it");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    let taken = record["peak_memory_bytes"].as_f64().expect("a number") / 1e9;
    (predicted.and_then(|number| number.parse().ok()).expect("a number of gigabytes"), taken)
}

fn holds(project: &Project, set: &[&str]) {
    let (predicted, taken) = predicted_and_taken(project, set);
    assert!((predicted / taken - 1.0).abs() < TOLERANCE, "{set:?}: {predicted} GB predicted, {taken:.3} GB taken");
}

#[test]
fn adapters_take_what_was_predicted() {
    let project = project("posters", "");
    for set in [
        &["lora.train_text_encoder=true"][..],
        &["lora.kind=lokr", "data.resolution=256"],
        &["precision.compute=bf16", "data.resolution=256"],
        &["train.gradient_checkpointing=all", "data.resolution=256"],
    ] {
        holds(&project, set);
    }
}

#[test]
fn whole_weights_take_what_was_predicted() {
    let project = project("posters", "");
    for set in
        [&["method=full", "data.resolution=192"][..], &["method=vae", "data.resolution=192", "data.batch_size=2"]]
    {
        holds(&project, set);
    }
}

/// What is there to need less memory, and what needs more.
#[test]
fn whole_weights_in_half_the_room_and_with_an_average_take_what_was_predicted() {
    let project = project("posters", "");
    let narrow = ["precision.compute=bf16", "precision.weights=bf16", "precision.rounding=stochastic"];
    let fused = ["train.fused_backward=true", "train.max_grad_norm=0", "data.resolution=256"];
    holds(&project, &[&["method=full", "optimizer.learning_rate=1e-5"], &narrow[..], &fused].concat());
    let averaged = ["optimizer.type=adamw_8bit", "ema.enabled=true", "data.resolution=192"];
    holds(&project, &[&["method=full"], &averaged[..]].concat());
}

#[test]
fn words_and_subjects_take_what_was_predicted() {
    let words = project("posters", "<look>,");
    let learned = "textual_inversion.tokens=[{word=\"<look>\",initial_words=\"poster\"}]";
    holds(&words, &["method=textual_inversion", "data.resolution=192", learned]);
    let subject = project("posters-subject", "");
    let prior = ["dreambooth.prior=base_prediction", "dreambooth.class_prompt=poster, a house"];
    holds(&subject, &[&["method=dreambooth", "trainable=lora", "data.resolution=192"], &prior[..]].concat());
    // As it is where nothing else is said: the whole model beside class images that it draws itself, here as few as there can be.
    let drawn = ["dreambooth.class_prompt=poster, a house", "dreambooth.num_class_images=2", "dreambooth.steps=2"];
    holds(&subject, &[&["method=dreambooth", "data.resolution=192"], &drawn[..]].concat());
}

#[test]
fn inpainting_takes_what_was_predicted() {
    let project = project("posters", "");
    project
        .expect(0, &["convert", "builtin:poster-tiny", "painting.safetensors", "--to", "single-file", "--inpainting"]);
    let painting = ["method=inpainting", "model.path=painting.safetensors", "data.resolution=192"];
    for trainable in ["trainable=lora", "trainable=full"] {
        holds(&project, &[&painting[..], &[trainable]].concat());
    }
}

/// sd-scripts#1088, kohya_ss#2880: each picture that is drawn on the way leaves some memory behind.
#[test]
fn sd_scripts_1088_pictures_on_the_way_leave_no_memory_behind() {
    let project = Project::new();
    let taken = |steps: &str| {
        let set = format!("train.max_steps={steps}");
        let args = ["--config", "run.toml", "--set", &set, "--set", "samples.every_steps=1", "--resume", "never"];
        project.expect(0, &args);
        let record = fs::read_to_string(project.path("outputs/run/run.json")).expect("the run wrote it");
        let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
        record["peak_memory_bytes"].as_f64().expect("a number")
    };
    let (few, many) = (taken("6"), taken("180"));
    // A picture of 64 × 64 pixels is 48 KiB as numbers: kept, 174 of them are 8.6 MB, without what they are drawn from. Two runs of one
    // length differ by up to 3 MB.
    assert!(many - few < 6e6, "{few} bytes with 7 pictures, {many} with 181");
}

/// What `sh` lets a process have of private memory, in KiB.
fn with_little_memory(project: &Project, kibibytes: u64, args: &[&str]) -> (Option<i32>, String) {
    let program = project.command(&[]).get_program().to_string_lossy().into_owned();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("ulimit -d {kibibytes} && exec \"$0\" \"$@\""), &program]).args(args);
    let output = command.current_dir(project.path(".")).output().expect("there is a shell");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A step that finds too little memory ends the run with an exit code of its own; what was learned before it is saved, and the next
/// start goes on from there.
#[test]
fn a_step_too_large_for_the_memory_loses_nothing_that_was_learned() {
    const SIDE: u32 = 4096;
    let project = Project::new();
    fs::create_dir(project.path("large")).expect("it is new");
    image::RgbImage::new(SIDE, SIDE).save(project.path("large/0.png")).expect("there is room");
    fs::write(project.path("large/0.txt"), "large").expect("there is room");
    let text = fs::read_to_string(project.path("run.toml")).expect("it is there");
    let two = format!("repeats = 20\n[[data.subsets]]\npath = \"large\"\nresolution = {SIDE}\nbatch_size = 1\n[lora]");
    project.write("run.toml", &text.replace("[lora]", &two));
    let keys = ["data.cache_latents=false", "samples.prompts=[]", "checkpoint.every_steps=0", "train.max_steps=1000"];
    let keys: Vec<&str> = keys.iter().flat_map(|key| ["--set", key]).collect();
    // One of sixty batches is too large; with a seed that takes it first nothing is learned before.
    let ended = (1..=3).find_map(|seed| {
        let (seed, output) = (format!("seed={seed}"), format!("out-{seed}"));
        let run = ["--config", "run.toml", "--output", &output, "--set", &seed];
        let args: Vec<String> = [&run[..], &keys].concat().into_iter().map(str::to_owned).collect();
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let (code, said) = with_little_memory(&project, 1_000_000, &words);
        assert_eq!(code, Some(6), "{said}");
        assert!(said.contains("out of memory"), "{said}");
        let metrics = fs::read_to_string(project.path(&output).join("metrics.jsonl")).unwrap_or_default();
        (metrics.lines().count() > 0).then(|| (metrics.lines().count(), output, args, said))
    });
    let (steps, output, args, said) = ended.expect("three times the largest of sixty batches came first");
    assert!(said.contains("what was learned before it is saved") && said.contains("hint: "), "{said}");
    let checkpoint = project.path(&output).join(format!("checkpoints/step-{steps:06}"));
    assert!(checkpoint.join("MANIFEST.json").is_file(), "{said}");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (code, said) = with_little_memory(&project, 1_000_000, &args);
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains(&format!("continuing after step {steps}")), "{said}");
}

/// kohya_ss#2999: pictures cost the checkpoint that was due.
/// Too little memory for the pictures costs neither the run nor its product.
#[test]
fn kohya_ss_2999_pictures_too_large_for_the_memory_are_left_out() {
    let project = Project::new();
    let huge = ["--set", "samples.width=4096", "--set", "samples.height=4096", "--set", "samples.steps=1"];
    let args = [&["--config", "run.toml", "--set", "train.max_steps=2"], &huge[..]].concat();
    let (code, said) = with_little_memory(&project, 1_000_000, &args);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the pictures failed, and the run goes on: out of memory"), "{said}");
    assert!(project.path("outputs/run/run.safetensors").is_file());
}
