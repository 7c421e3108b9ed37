//! A run can be killed at any moment and goes on to the same bits.

use crate::project::{Project, Running, fixture};
use sdtrain_data_loader::DataSet;
use sdtrain_recipe::TrainConfig;
use std::fs;
use std::path::Path;
use std::time::Duration;

#[test]
fn a_killed_run_continues_to_the_same_bits() {
    assert_continues(&[]);
}

#[test]
fn a_killed_run_of_another_kind_with_every_dropout_continues_to_the_same_bits() {
    let keys = ["kind=dora", "dropout=0.1", "rank_dropout=0.1", "module_dropout=0.1", "max_weight_norm=0.05"];
    let keys = keys.map(|key| format!("lora.{key}"));
    assert_continues(&keys.iter().flat_map(|key| ["--set", key]).collect::<Vec<_>>());
}

/// A run with `changes` that is killed has the product of one that is not.
fn assert_continues(changes: &[&str]) {
    let project = Project::new();
    let config = [&["--config", "run.toml", "--set", "train.max_steps=120"], changes].concat();
    project.expect(0, &[&config[..], &["--output", "straight"]].concat());
    let args = [&config[..], &["--output", "killed", "--set", "samples.prompts=[]"]].concat();
    let running = project.start(&args);
    running.wait_for(|| project.path("killed/checkpoints/step-000002/MANIFEST.json").is_file());
    running.kill();
    // Whatever came after the last checkpoint is done again.
    let (_, said) = project.expect(0, &args);
    assert!(said.contains("continuing after step"), "it was over before it was killed: {said}");
    let product = |folder: &str| fs::read(project.path(folder).join("run.safetensors")).unwrap();
    assert_eq!(product("straight"), product("killed"));
    let metrics = fs::read_to_string(project.path("killed/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 120, "{metrics}");
}

/// Whatever an optimizer keeps is in the checkpoint, and looking at the model on the way changes nothing.
#[test]
fn every_optimizer_continues_to_the_same_bits() {
    const WHAT_THEY_KEEP: [&str; 9] =
        ["adamw_8bit", "adafactor", "lion", "sgd", "prodigy", "dadapt_adam", "adamw_schedule_free", "came", "muon"];
    let project = Project::new();
    for kind in WHAT_THEY_KEEP {
        let kind_setting = format!("optimizer.type={kind}");
        let mut args = vec!["--config", "run.toml", "--set", kind_setting.as_str(), "--set", "checkpoint.keep_last=9"];
        match kind {
            "sgd" => args.extend(["--set", "optimizer.momentum=0.9"]),
            "adamw_8bit" => args.extend(["--set", "optimizer.min_8bit_size=1"]),
            _ => {}
        }
        let straight = format!("{kind}-straight");
        let quiet = ["--set", "samples.prompts=[]", "--output", straight.as_str()];
        project.expect(0, &[&args[..], &quiet].concat());
        // Once more, with pictures and products after every step, from the checkpoint in the middle.
        let continued = format!("{kind}-continued");
        args.extend(["--output", continued.as_str(), "--set", "save.every_steps=1", "--set", "samples.every_steps=1"]);
        project.expect(0, &args);
        let product = |folder: &str| fs::read(project.path(folder).join("run.safetensors")).unwrap();
        assert!(product(&straight) == product(&continued), "{kind}: a run with pictures ends elsewhere");
        let checkpoint = project.path(&continued).join("checkpoints/step-000004").display().to_string();
        fs::remove_file(project.path(&continued).join("run.safetensors")).unwrap();
        project.expect(0, &[&args[..], &["--resume", &checkpoint]].concat());
        assert!(product(&straight) == product(&continued), "{kind}: a continued run ends elsewhere");
    }
}

fn losses(project: &Project, folder: &str) -> Vec<String> {
    let metrics = fs::read_to_string(project.path(folder).join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].to_string();
    metrics.lines().map(loss).collect()
}

/// In the layers of the built-in base, whose lower half meets its weights as products of matrices, and in bf16 attention and few rows in kernels
/// of our own: as in large models, and unlike in those of the fixtures.
#[test]
fn two_threads_continue_to_the_same_bits_and_checkpointed_blocks_give_them() {
    let project = Project::new();
    for (name, compute) in [("narrow", "bf16"), ("wide", "fp32")] {
        let compute = format!("precision.compute={compute}");
        let keys =
            ["model.path=\"builtin:poster-tiny\"", "train.threads=2", "train.max_steps=4", "checkpoint.keep_last=9"];
        let keys = keys.into_iter().chain([compute.as_str(), "samples.prompts=[]"]).flat_map(|key| ["--set", key]);
        let args: Vec<&str> = ["--config", "run.toml"].into_iter().chain(keys).collect();
        let product = |folder: &str| fs::read(project.path(folder).join("run.safetensors")).unwrap();
        project.expect(0, &[&args[..], &["--output", name]].concat());
        let before = product(name);
        fs::remove_file(project.path(name).join("run.safetensors")).unwrap();
        let checkpoint = project.path(name).join("checkpoints/step-000002").display().to_string();
        let (_, said) = project.expect(0, &[&args[..], &["--output", name, "--resume", &checkpoint]].concat());
        assert!(said.contains("continuing after step 2") && product(name) == before, "{name}: {said}");
        // The product says how it was made, so it is another file.
        let again = format!("{name}-again");
        project
            .expect(0, &[&args[..], &["--output", &again, "--set", "train.gradient_checkpointing=\"all\""]].concat());
        assert_eq!(losses(&project, &again), losses(&project, name), "{name}");
    }
}

#[test]
fn a_damaged_newest_checkpoint_is_named_and_its_steps_are_done_again() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "samples.prompts=[]", "--set", "checkpoint.keep_last=9"];
    project.expect(0, &args);
    let product = || fs::read(project.path("outputs/run/run.safetensors")).unwrap();
    let before = product();
    // As if it had been killed behind its last checkpoint, and the disk had lost a bit of that.
    fs::remove_file(project.path("outputs/run/run.safetensors")).unwrap();
    fs::remove_file(project.path("outputs/run/run.json")).unwrap();
    let tensors = project.path("outputs/run/checkpoints/step-000006/tensors.safetensors");
    let mut content = fs::read(&tensors).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&tensors, content).unwrap();
    let (_, said) = project.expect(0, &args);
    let warns = |line: &str| {
        let named = line.contains("warning:") && line.contains("step-000006` is not whole");
        named && line.ends_with("its 2 steps after step 4 are done again")
    };
    assert!(said.lines().any(warns), "{said}");
    assert!(said.contains("continuing after step 4"), "{said}");
    assert_eq!(product(), before);
}

#[test]
fn a_place_for_checkpoints_that_cannot_be_written_to_is_found_at_the_start() {
    let project = Project::new();
    fs::create_dir_all(project.path("outputs/run")).unwrap();
    // Nobody can make a file there, not even root.
    std::os::unix::fs::symlink("/proc/self/fdinfo", project.path("outputs/run/checkpoints")).unwrap();
    let (_, said) = project.expect(7, &["--config", "run.toml"]);
    assert!(said.contains("checkpoints"), "{said}");
    assert!(!said.contains("images found"), "data were opened before: {said}");
}

/// Lightning#1455, Lightning#14610, Lightning#20542: preemption is not handled, or by another signal than the cluster sends.
/// Lightning#21406, EgoVerse#621: a handler saves in the midst of a step, or workers inherit it.
#[test]
fn lightning_1455_a_stopped_run_saves_and_ends_with_75() {
    for signal in ["TERM", "INT", "USR1"] {
        let project = Project::new();
        let args = ["--config", "run.toml", "--set", "train.max_steps=100000", "--set", "samples.prompts=[]"];
        // As SLURM says it: the second that the job ends at.
        let end = std::time::SystemTime::now() + std::time::Duration::from_secs(600);
        let end = end.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs().to_string();
        let args = [&args[..], &["--set", "checkpoint.every_steps=0"]].concat();
        let running = project.start_with(&[("SLURM_JOB_END_TIME", &end)], &args);
        running.wait_for(|| {
            fs::read_to_string(project.path("outputs/run/metrics.jsonl")).is_ok_and(|text| text.lines().count() > 2)
        });
        running.signal(signal);
        let (code, said) = running.end();
        assert_eq!(code, Some(75), "{signal}: {said}");
        let steps = fs::read_to_string(project.path("outputs/run/metrics.jsonl")).unwrap().lines().count();
        let newest = fs::read_to_string(project.path("outputs/run/checkpoints/latest")).unwrap();
        assert_eq!(newest.trim(), format!("step-{steps:06}"), "{signal}: {said}");
        let asked = said.lines().find(|line| line.contains("a signal asks to stop")).unwrap_or_default();
        let left = asked.rsplit_once("the job has ").and_then(|(_, left)| left.split(' ').next()?.parse::<u64>().ok());
        assert!(left.is_some_and(|left| (300..=600).contains(&left)), "{signal}: {said}");
    }
}

/// Such checkpoints would fill the disk, and nobody would know why.
#[test]
fn a_checkpoint_that_cannot_be_deleted_is_named_and_the_run_goes_on() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "train.max_steps=100000", "--set", "samples.prompts=[]"];
    let running =
        project.start(&[&args[..], &["--set", "checkpoint.every_steps=1", "--set", "checkpoint.keep_last=2"]].concat());
    let checkpoints = project.path("outputs/run/checkpoints");
    running.wait_for(|| checkpoints.join("step-000002").exists());
    // In the place of the name that it gets before it goes.
    fs::write(checkpoints.join(".trash-step-000020"), "a file").unwrap();
    running.wait_for_words("cannot delete");
    running.wait_for(|| checkpoints.join("step-000024").exists());
    running.terminate();
    let (code, said) = running.end();
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains("warning: cannot delete outputs/run/checkpoints/step-000020: "), "{said}");
    assert!(checkpoints.join("step-000020").exists() && !checkpoints.join("step-000021").exists(), "{said}");
}

#[test]
fn a_signal_that_asks_for_a_checkpoint_gets_one_and_the_run_goes_on() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "train.max_steps=100000", "--set", "samples.prompts=[]"];
    let running = project.start(&[&args[..], &["--set", "checkpoint.every_steps=0"]].concat());
    // Before there is a step it has nothing to save, and goes on all the same.
    running.wait_for(|| running.answers_signals());
    running.signal("USR2");
    let steps = || fs::read_to_string(project.path("outputs/run/metrics.jsonl")).unwrap_or_default().lines().count();
    running.wait_for(|| steps() > 2);
    running.signal("USR2");
    running.wait_for_words("a signal asks for a checkpoint");
    running.wait_for_words("saved ");
    let saved = steps();
    running.wait_for(|| steps() > saved + 2);
    running.terminate();
    let (code, said) = running.end();
    assert_eq!(code, Some(75), "{said}");
    assert_eq!(said.matches("saved ").count(), 2, "{said}");
}

/// Lightning#21406, EgoVerse#621: a handler saves in the midst of a step.
/// Every step since the fifth is skipped: what was learned by then is saved all the same.
#[test]
fn lightning_21406_a_run_that_is_stopped_in_a_row_of_skipped_steps_loses_nothing() {
    let project = Project::new();
    let faults: Vec<String> =
        (5..1500).map(|step| format!("{{step={step},parameter=\"unet.conv_in.weight\"}}")).collect();
    let faults = format!("debug.faults=[{}]", faults.join(","));
    let args =
        ["--config", "run.toml", "--set", "train.max_steps=100000", "--set", "samples.prompts=[]", "--set", &faults];
    let more = ["--set", "checkpoint.every_steps=0", "--set", "train.max_skipped_steps=100000"];
    let running = project.start(&[&args[..], &more].concat());
    running.wait_for_words("step 9 is skipped");
    running.terminate();
    let (code, said) = running.end();
    assert_eq!(code, Some(75), "{said}");
    let newest = fs::read_to_string(project.path("outputs/run/checkpoints/latest")).unwrap();
    assert!(newest.trim() >= "step-000009", "{newest}: {said}");
}

/// Lightning#1455, Lightning#14610, Lightning#20542: preemption is not handled, here while the program starts.
#[test]
fn lightning_14610_whoever_asks_while_the_program_starts_is_heard() {
    let project = Project::new();
    // While the configuration is looked at, while the one program becomes the other, while that loads libtorch.
    for milliseconds in [0, 1, 2, 3, 5, 8, 12, 20, 40, 80, 160] {
        let output = format!("after_{milliseconds}");
        let running = project.start(&["--config", "run.toml", "--output", &output, "--set", "train.max_steps=100000"]);
        running.wait_for(|| running.answers_signals());
        std::thread::sleep(Duration::from_millis(milliseconds));
        running.terminate();
        let (code, said) = running.end();
        assert_eq!(code, Some(75), "after {milliseconds} ms: {said}");
    }
}

#[test]
fn a_run_that_is_stopped_before_its_first_step_ends_with_75_at_once() {
    let project = Project::new();
    let class = ["--set", "method=dreambooth", "--set", "trainable=lora", "--set", "dreambooth.class_prompt=a house"];
    let many = ["--set", "dreambooth.num_class_images=100000", "--set", "samples.prompts=[]"];
    for signal in ["TERM", "INT", "USR1"] {
        let running = project.start(&[&["--config", "run.toml"], &class[..], &many].concat());
        running.wait_for_words("drawing");
        running.signal(signal);
        let (code, said) = running.end();
        assert_eq!(code, Some(75), "{signal}: {said}");
        assert!(said.contains("stopped before the first step"), "{signal}: {said}");
    }
}

#[test]
fn saving_that_may_outlast_a_stop_is_said_once() {
    let project = Project::new();
    // No disk is that fast, and none that slow.
    for (grace, times) in [("1e-6", 1), ("3600", 0)] {
        let grace = format!("checkpoint.grace_seconds={grace}");
        let args = ["--config", "run.toml", "--set", &grace, "--set", "checkpoint.every_steps=1", "--resume", "never"];
        let (_, said) = project.expect(0, &args);
        assert_eq!(said.matches("`checkpoint.grace_seconds`").count(), times, "{said}");
    }
}

/// Steps that take seconds, within which nobody looks whether the run is to stop.
const SLOW_STEPS: [&str; 4] = ["--set", "train.gradient_accumulation_steps=400", "--set", "data.subsets.0.repeats=400"];

/// Until the run that writes to `output` is in its first step.
fn wait_for_first_step(running: &Running, output: &Path) {
    running.wait_for(|| output.join("samples/step-000000/grid.png").is_file());
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn a_second_interrupt_ends_a_run_at_once() {
    let project = Project::new();
    let running = project.start(&[&["--config", "run.toml"], &SLOW_STEPS[..]].concat());
    wait_for_first_step(&running, &project.path("outputs/run"));
    running.signal("INT");
    std::thread::sleep(Duration::from_millis(300));
    running.signal("INT");
    let (code, said) = running.end();
    assert_eq!(code, Some(130), "{said}");
}

/// Lightning#1455, Lightning#14610, Lightning#20542: preemption is not handled, here where Ctrl-C follows it.
#[test]
fn lightning_20542_the_first_interrupt_of_a_run_that_a_cluster_has_told_to_stop_is_no_second_one() {
    let project = Project::new();
    for asked in ["TERM", "USR1"] {
        let output = format!("after_{asked}");
        let running = project.start(&[&["--config", "run.toml", "--output", &output], &SLOW_STEPS[..]].concat());
        wait_for_first_step(&running, &project.path(&output));
        for signal in [asked, "INT"] {
            running.signal(signal);
            std::thread::sleep(Duration::from_millis(300));
        }
        let (code, said) = running.end();
        assert_eq!(code, Some(75), "{asked}: {said}");
        assert!(said.contains("a signal asks to stop"), "{asked}: {said}");
    }
}

/// What a cluster leaves between its signal and the kill is for saving: pictures are broken off, and the next start draws them.
#[test]
fn whoever_asks_to_stop_does_not_wait_for_pictures() {
    let project = Project::new();
    let run = |output: &'static str, more: &[&'static str]| {
        let each = ["train.max_steps=2", "checkpoint.every_steps=0", "validation.every_steps=1"];
        let settings = each.iter().chain(more).flat_map(|&setting| ["--set", setting]);
        ["--config", "run.toml", "--output", output].into_iter().chain(settings).collect::<Vec<&str>>()
    };
    const SLOW: &[&str] = &["samples.steps=900", "samples.every_steps=1"];
    let running = project.start(&run("stopped", SLOW));
    let pictures = project.path("stopped/samples/step-000001");
    running.wait_for(|| pictures.is_dir());
    running.terminate();
    let (code, said) = running.end();
    assert_eq!(code, Some(75), "{said}");
    assert!(!pictures.join("grid.png").exists() && said.contains("are drawn when the run goes on"), "{said}");
    assert!(project.path("stopped/checkpoints/step-000001/MANIFEST.json").is_file(), "{said}");
    let (_, said) = project.expect(0, &run("stopped", &["samples.steps=2", "samples.every_steps=1"]));
    assert!(pictures.join("grid.png").is_file(), "{said}");
    let scalars = fs::read_to_string(project.path("stopped/scalars.jsonl")).expect("it measures");
    let is_it = |line: &&str| line.contains("\"step\":1,") && line.contains("validation/loss");
    assert_eq!(scalars.lines().filter(is_it).count(), 1, "{scalars}");
    project.expect(0, &run("straight", &["samples.prompts=[]"]));
    let product = |output: &str| fs::read(project.path(output).join("run.safetensors")).expect("a product");
    assert!(product("straight") == product("stopped"), "other bits: {said}");
}

/// A checkpoint of gigabytes takes most of what a cluster leaves between its signal and the kill.
#[test]
fn whoever_asks_to_stop_behind_a_checkpoint_does_not_save_it_again() {
    let project = Project::new();
    let keys = ["checkpoint.every_steps=1", "samples.steps=900", "samples.every_steps=1", "train.max_steps=2"];
    let keys: Vec<&str> = keys.iter().flat_map(|key| ["--set", key]).collect();
    let running = project.start(&[&["--config", "run.toml"], &keys[..]].concat());
    running.wait_for(|| project.path("outputs/run/samples/step-000001").is_dir());
    running.terminate();
    let (code, said) = running.end();
    assert_eq!(code, Some(75), "{said}");
    assert_eq!(said.matches("saved ").count(), 1, "{said}");
}

/// What a run may not go on with it says before hours of encoding, and keeps nothing of it.
#[test]
fn other_images_are_refused_before_they_are_encoded() {
    let project = Project::new();
    let keys = ["data.cache_dir=cache", "samples.prompts=[]", "train.max_steps=10000"];
    let keys: Vec<&str> = keys.iter().flat_map(|key| ["--set", key]).collect();
    let run = [&["--config", "run.toml"], &keys[..]].concat();
    let running = project.start(&run);
    running.wait_for(|| project.path("outputs/run/checkpoints/step-000002/MANIFEST.json").is_file());
    assert!(running.said().contains("latents: "), "it is not said what is encoded: {}", running.said());
    running.kill();
    let entries = || {
        let folders = fs::read_dir(project.path("cache/latents")).expect("it is filled").flatten();
        folders.map(|folder| fs::read_dir(folder.path()).expect("a folder of entries").count()).sum::<usize>()
    };
    let before = entries();
    // One that there are no latents of.
    image::RgbImage::new(64, 96).save(project.path("images/0.png")).expect("there is room");
    let (_, said) = project.expect(4, &run);
    assert!(said.contains("the images or captions have changed") && !said.contains("latents: "), "{said}");
    assert_eq!(entries(), before);
}

/// kohya_ss#2999: pictures cost the checkpoint that was due.
/// As the kernel does where memory ends: the pictures of a step never cost its checkpoint.
#[test]
fn kohya_ss_2999_a_run_that_is_killed_while_it_draws_has_the_checkpoint_of_that_step() {
    let project = Project::new();
    let slow = ["--set", "samples.steps=900", "--set", "samples.every_steps=2", "--set", "train.max_steps=1000"];
    let running = project.start(&[&["--config", "run.toml"], &slow[..]].concat());
    running.wait_for(|| project.path("outputs/run/samples/step-000002").is_dir());
    running.kill();
    assert!(!project.path("outputs/run/samples/step-000002/grid.png").exists(), "the pictures were drawn by then");
    assert!(project.path("outputs/run/checkpoints/step-000002/MANIFEST.json").is_file());
}

#[test]
fn another_configuration_in_the_same_folder_is_refused_with_its_keys() {
    let project = Project::new();
    project.expect(0, &["--config", "run.toml"]);
    let (_, said) = project.expect(2, &["--config", "run.toml", "--set", "seed=8"]);
    assert!(said.contains("`seed`") || said.contains("seed"), "{said}");
    project.expect(0, &["--config", "run.toml", "--set", "seed=8", "--resume", "never"]);
    assert!(project.path("outputs/run.1/run.safetensors").is_file());
}

/// musubi-tuner#29, musubi-tuner#49: wrong weights are loaded without a word, here those of a checkpoint that another run left.
#[test]
fn musubi_tuner_29_a_checkpoint_of_another_method_or_base_is_refused_by_name() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "samples.prompts=[]", "--set", "checkpoint.keep_last=9"];
    project.expect(0, &[&args[..], &["--output", "lora"]].concat());
    let checkpoint = project.path("lora/checkpoints/step-000002").display().to_string();
    let other_base = format!("model.path={}", fixture("tiny_sd2").display());
    let continued = |code: i32, settings: &[&str]| {
        let onward = ["--output", "onward", "--resume", &checkpoint];
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        let (_, said) = project.expect(code, &[&args[..], &onward[..], &settings[..]].concat());
        assert!(!project.path("onward/checkpoints/latest").exists(), "{settings:?}: {said}");
        said
    };
    for (setting, key) in [("method=full", "method"), (other_base.as_str(), "model.path")] {
        let said = continued(2, &[setting]);
        let keys = said.split("these keys differ: ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
        assert!(keys.split(", ").any(|named| named == key), "{setting}: {said}");
        assert!(said.contains("hint: ") && said.contains("`checkpoint.allow_changes`"), "{said}");
    }
    // The word may change, but what a LoRA has learned is no whole network; and another path is no permission for other weights.
    let said = continued(4, &["method=full", "checkpoint.allow_changes=[\"method\"]"]);
    assert!(!project.path("onward/run.json").exists() && !project.path("onward/config.toml").exists(), "{said}");
    assert!(said.contains("cannot continue from `") && said.contains("step-000002`: it has no `unet."), "{said}");
    let said = continued(4, &[other_base.as_str(), "checkpoint.allow_changes=[\"model.path\"]"]);
    let named = "the weights of the base model have changed since; `--resume never` starts anew, and";
    assert!(said.contains(named) && said.contains("`checkpoint.allow_changes = [\"model\"]`"), "{said}");
}

#[test]
fn changed_images_are_noticed() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "samples.prompts=[]", "--set", "train.max_steps=100000"];
    let running = project.start(&args);
    running.wait_for(|| project.path("outputs/run/checkpoints/step-000002/MANIFEST.json").is_file());
    running.kill();
    fs::remove_file(project.path("images/5.png")).unwrap();
    let (_, said) = project.expect(4, &args);
    assert!(said.contains("have changed"), "{said}");
}

/// It waits for nothing, and knows the data by less than their contents: who goes on from it hears so.
#[test]
fn a_checkpoint_of_before_every_image_was_read_says_what_is_not_compared() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "samples.prompts=[]", "--set", "checkpoint.keep_last=9"];
    project.expect(0, &args);
    let own = project.path("outputs/run/checkpoints/step-000004");
    let config = TrainConfig::load(&project.path("run.toml"), &[]).unwrap_or_else(|error| panic!("{error}")).config;
    let data = DataSet::open(&config.data, config.seed, 16).unwrap_or_else(|error| panic!("{error}"));
    let mut info = sdtrain_checkpoint::verify(&own).expect("it is whole").info;
    info.data_digest = format!("listing:{}", data.listing());
    sdtrain_checkpoint::publish(&project.path("early"), "step-000004", info, &mut |folder| {
        for name in ["tensors.safetensors", "config.toml", "state.json"] {
            fs::copy(own.join(name), folder.join(name))?;
        }
        Ok(())
    })
    .expect("there is room");
    let continued = |code: i32, output: &str| {
        let (_, said) =
            project.expect(code, &[&args[..], &["--output", output, "--resume", "early/step-000004"]].concat());
        said
    };
    let said = continued(0, "onward");
    let note = "note: the checkpoint was written before every image had been read";
    assert!(said.contains(note) && said.contains("whether the files hold the same is not known"), "{said}");
    // One of another length.
    image::RgbImage::new(64, 64).save(project.path("images/1.png")).expect("there is room");
    let said = continued(4, "refused");
    assert!(said.contains("the images or captions have changed") && !said.contains(note), "{said}");
}

#[test]
fn an_older_checkpoint_becomes_the_newest() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "samples.prompts=[]", "--set", "checkpoint.keep_last=9"];
    let args = [&args[..], &["--set", "save.every_steps=2"]].concat();
    project.expect(0, &args);
    let product = || fs::read(project.path("outputs/run/run.safetensors")).unwrap();
    let before = product();
    let checkpoint = project.path("outputs/run/checkpoints/step-000002").display().to_string();
    let (_, said) = project.expect(0, &[&args[..], &["--resume", &checkpoint]].concat());
    assert_eq!(product(), before);
    assert!(project.path("outputs/run/checkpoints-set-aside/step-000006.1").is_dir());
    assert!(project.path("outputs/run/checkpoints-set-aside/run-step00000004.safetensors.1").is_file());
    assert!(said.contains("of later steps are set aside in `") && said.contains("checkpoints-set-aside`: 4"), "{said}");
    let other = ["--set", "optimizer.learning_rate=1e-5", "--resume", &checkpoint];
    let (_, said) = project.expect(2, &[&args[..], &other].concat());
    assert!(said.contains("optimizer.learning_rate"), "{said}");
}

#[test]
fn a_run_that_left_nothing_does_not_stand_in_the_way() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "checkpoint.every_steps=0", "--set", "samples.prompts=[]"];
    project.expect(5, &[&args[..], &["--set", "optimizer.learning_rate=1e30"]].concat());
    project.expect(0, &args);
}

#[test]
fn weights_that_are_no_numbers_end_a_run_in_half_precision_too() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "precision.compute=fp16", "--set", "optimizer.learning_rate=1e30"];
    let (_, said) = project.expect(5, &[&args[..], &["--set", "train.max_steps=40"]].concat());
    assert!(said.contains("the weights after step 1 are not finite"), "{said}");
    for named in ["`optimizer.learning_rate`", "`precision.compute`", "loss scale", "`model.vae`"] {
        assert!(said.contains(named), "{named}: {said}");
    }
}

#[test]
fn products_on_the_way_are_counted_across_a_continuation() {
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "samples.prompts=[]", "--set", "save.every_steps=1"];
    let args = [&args[..], &["--set", "save.keep_last=2", "--set", "train.max_steps=100000"]].concat();
    let numbered = || {
        let entries = fs::read_dir(project.path("outputs/run")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("run-step")).count()
    };
    for _ in 0..2 {
        let step =
            || fs::read_to_string(project.path("outputs/run/metrics.jsonl")).map_or(0, |text| text.lines().count());
        let began = step();
        let running = project.start(&args);
        running.wait_for(|| step() > began + 3);
        running.terminate();
        let (code, said) = running.end();
        assert_eq!(code, Some(75), "{said}");
        assert_eq!(numbered(), 2);
    }
}

/// SimpleTuner#2353, sd-scripts#1279, mmdetection#12069, LichtFeld#717: a full disk costs the run.
#[test]
fn simple_tuner_2353_a_checkpoint_that_the_disk_refuses_is_kept_in_memory_until_it_takes_it() {
    let project = Project::new();
    let long = ["--config", "run.toml", "--set", "train.max_steps=100000", "--set", "samples.prompts=[]"];
    let running = project.start(&long);
    let checkpoints = project.path("outputs/run/checkpoints");
    running.wait_for_words("step-000002");
    // A file in the place of the folder refuses everything, whoever runs the test.
    let away = project.path("away");
    fs::rename(&checkpoints, &away).expect("the same disk");
    fs::write(&checkpoints, "").expect("there is room");
    running.wait_for_words("trying again");
    let refused = running.said();
    fs::remove_file(&checkpoints).expect("it is there");
    fs::rename(&away, &checkpoints).expect("the same disk");
    running.wait_for(|| running.said().get(refused.len()..).is_some_and(|more| more.contains("saved ")));
    running.kill();
}

/// SimpleTuner#2353, sd-scripts#1279, mmdetection#12069, LichtFeld#717: a full disk costs the run.
#[test]
fn simple_tuner_2353_a_disk_that_goes_on_refusing_ends_the_run_with_its_own_exit_code() {
    let project = Project::new();
    fs::create_dir_all(project.path("outputs/run/checkpoints")).expect("there is room");
    let changes = ["--set", "checkpoint.retry_minutes=0", "--set", "samples.prompts=[]"];
    let long = ["--config", "run.toml", "--set", "train.max_steps=100000"];
    let running = project.start(&[&long, &changes[..]].concat());
    running.wait_for_words("step-000002");
    fs::rename(project.path("outputs/run/checkpoints"), project.path("away")).expect("the same disk");
    fs::write(project.path("outputs/run/checkpoints"), "").expect("there is room");
    let (code, said) = running.end();
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("checkpoints") && !said.contains("trying again"), "{said}");
}

#[test]
fn a_folder_that_vanishes_in_the_middle_is_taken_again_and_said() {
    let project = Project::new();
    let long = ["--config", "run.toml", "--set", "train.max_steps=100000", "--set", "samples.prompts=[]"];
    let running = project.start(&long);
    running.wait_for_words("step-000002");
    // In one step, as files that are written meanwhile would keep it from being deleted.
    fs::rename(project.path("outputs/run"), project.path("away")).expect("the same disk");
    fs::remove_dir_all(project.path("away")).expect("nobody writes there");
    running.wait_for_words("was deleted, moved or replaced while the run went on");
    let taken = running.said().len();
    running.wait_for(|| running.said().get(taken..).is_some_and(|more| more.contains("saved ")));
    let (_, said) = project.expect(9, &long);
    assert!(said.contains("is in use by another run"), "{said}");
    running.terminate();
    let (code, said) = running.end();
    assert_eq!(code, Some(75), "{said}");
    assert_eq!(said.matches("was deleted, moved or replaced").count(), 1, "{said}");
    assert!(said.contains("the TensorBoard files up to step"), "{said}");
    let newest = fs::read_to_string(project.path("outputs/run/checkpoints/latest")).unwrap();
    let steps = fs::read_to_string(project.path("outputs/run/metrics.jsonl")).unwrap().lines().count();
    assert_eq!(newest.trim(), format!("step-{steps:06}"), "{said}");
    for name in ["config.toml", "run.json", "tensorboard"] {
        assert!(project.path("outputs/run").join(name).exists(), "{name}: {said}");
    }
    // What is there now can be continued like any other.
    let running = project.start(&long);
    running.wait_for_words(&format!("continuing after step {steps}"));
    running.kill();
}
