//! A run leaves behind what the interface promises.

use crate::project::{Project, fixture};
use sdtrain_state_dict::{Reader, SafetensorsFile};
use std::fs;
use std::path::Path;

/// sd-scripts#93: a LoRA that was trained carefully is saved as zeros, and nobody is told.
#[test]
fn sd_scripts_93_weights_that_fp16_makes_zero_are_counted_where_it_is_saved_in_and_nowhere_else() {
    let project = Project::new();
    // Two steps of AdamW move a weight that begins at 0 by 2·10⁻⁹ at most; fp16 ends at 6·10⁻⁸.
    let careful = ["--config", "run.toml", "--set", "train.max_steps=2", "--set", "optimizer.learning_rate=1e-9"];
    for (format, is_said) in [("fp16", true), ("bf16", false), ("fp32", false)] {
        let (save, output) = (format!("precision.save={format}"), format!("out-{format}"));
        let more = ["--set", "samples.prompts=[]", "--set", &save, "--output", &output];
        let (_, said) = project.expect(0, &[&careful[..], &more].concat());
        assert_eq!(said.contains("are so small that fp16 makes them 0"), is_said, "{said}");
        let file = SafetensorsFile::open(project.path(&output).join("run.safetensors")).unwrap();
        let names = file.names();
        let mut learned = names.iter().filter(|name| name.ends_with("lora_up.weight")).peekable();
        assert!(learned.peek().is_some(), "{names:?}");
        let is_all_zero = learned.all(|name| file.bytes(name).unwrap().iter().all(|byte| byte & 0x7f == 0));
        assert_eq!(is_all_zero, is_said, "{format}");
    }
    let usual = ["--set", "optimizer.learning_rate=1e-3", "--set", "precision.save=fp16"];
    let (_, said) = project.expect(0, &[&["--config", "run.toml"], &usual[..]].concat());
    assert!(!said.contains("fp16 makes them 0"), "what is learned at the usual rate is not small: {said}");
}

#[test]
fn a_run_leaves_product_checkpoint_metrics_and_pictures() {
    let project = Project::new();
    project.expect(0, &["--config", "run.toml"]);
    for name in [
        "config.toml",
        "run.json",
        "metrics.jsonl",
        "run.safetensors",
        "checkpoints/latest",
        "checkpoints/step-000006/MANIFEST.json",
        "samples/step-000000/grid.png",
        "samples/step-000006/00-0.png",
        "samples/grid.png",
    ] {
        assert!(project.path("outputs/run").join(name).is_file(), "{name} is missing");
    }
    let metrics = fs::read_to_string(project.path("outputs/run/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 6);
    assert!(metrics.lines().all(|line| line.contains("\"grad_norm\"") && line.contains("\"lr\"")), "{metrics}");
    let product = SafetensorsFile::open(project.path("outputs/run/run.safetensors")).unwrap();
    let told = |key: &str| -> serde_json::Value { serde_json::from_str(&product.metadata()[key]).unwrap() };
    assert_eq!(told("ss_dataset_dirs"), serde_json::json!({ "images": { "n_repeats": 1, "img_count": 6 } }));
    let tags = &told("ss_tag_frequency")["images"];
    assert_eq!((&tags["small"], &tags["picture 3"]), (&serde_json::json!(6), &serde_json::json!(1)));
    let (_, said) = project.expect(0, &["--config", "run.toml"]);
    assert!(said.contains("finished"), "{said}");
}

#[test]
fn the_resolved_configuration_gives_the_same_product() {
    let project = Project::new();
    project.expect(0, &["--config", "run.toml"]);
    project.expect(0, &["--config", "outputs/run/config.toml", "--output", "again"]);
    let product = |folder: &str| fs::read(project.path(folder).join("run.safetensors")).unwrap();
    assert_eq!(product("outputs/run"), product("again"));
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    let project = Project::new();
    project.expect(0, &["--config", "run.toml", "--output", "plain"]);
    project
        .expect(0, &["--config", "run.toml", "--output", "recomputed", "--set", "train.gradient_checkpointing=true"]);
    let losses = |folder: &str| {
        let metrics = fs::read_to_string(project.path(folder).join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].to_string();
        metrics.lines().map(loss).collect::<Vec<_>>()
    };
    assert_eq!(losses("plain"), losses("recomputed"));
}

#[test]
fn a_profile_shows_where_the_time_of_steps_goes_and_changes_no_bit() {
    let project = Project::new();
    // Pictures between the steps that are looked at.
    let run = ["--config", "run.toml", "--set", "samples.every_steps=1", "--output"];
    project.expect(0, &[&run[..], &["plain"]].concat());
    // Its name must not get into the trace as it is.
    let folder = "the \"first\"";
    let (_, said) = project.expect(0, &[&run[..], &[folder, "--profile", "2"]].concat());
    assert!(said.contains("profile of steps 3 to 4") && said.contains("aten::"), "{said}");
    assert!(!said.contains("ERROR"), "what libtorch says of itself is nothing to a user: {said}");
    let product = |folder: &str| fs::read(project.path(folder).join("run.safetensors")).unwrap();
    assert!(product("plain") == product(folder), "the product has other bits");
    let trace = fs::read(project.path(folder).join("profile/step-000003-000004.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for (name, least) in
        [("prepare", 2), ("forward", 2), ("backward", 2), ("update", 2), ("step", 2), ("aten::convolution", 20)]
    {
        let count = events.iter().filter(|event| event["name"] == name).count();
        assert!(count >= least, "{count} of {name}");
    }
    // The pictures are drawn under no_grad and take longer than the steps: shares of these come to no more than the whole.
    let shares = said.lines().filter_map(|line| line.strip_suffix(" %")?.rsplit(' ').next()?.parse::<f64>().ok());
    let shares: f64 = shares.sum();
    assert!((95.0..105.0).contains(&shares), "{shares} % in {said}");
    // Where there are no more steps, those that warm up are looked at too.
    let short = ["--config", "run.toml", "--output", "short", "--set", "train.max_steps=2", "--profile", "20"];
    let (_, said) = project.expect(0, &short);
    assert!(said.contains("profile of steps 1 to 2"), "{said}");
}

#[test]
fn the_number_of_workers_changes_no_bit() {
    let project = Project::new();
    // Images are read anew for every batch.
    let set = ["--set", "data.cache_latents=false", "--set", "samples.prompts=[]"];
    let product = |workers: usize| {
        let (folder, workers) = (format!("with-{workers}"), format!("data.workers={workers}"));
        let args = ["--config", "run.toml", "--output", &folder, "--set", &workers];
        project.expect(0, &[&args[..], &set].concat());
        let file = SafetensorsFile::open(project.path(&folder).join("run.safetensors")).unwrap();
        // Its metadata name the configuration, and with it the workers.
        let bytes = |name: &str| (name.to_string(), file.bytes(name).unwrap().to_vec());
        file.names().into_iter().map(bytes).collect::<Vec<_>>()
    };
    assert_eq!(product(1), product(2));
}

#[test]
fn cached_latents_change_no_loss_beyond_rounding() {
    let project = Project::new();
    project.expect(0, &["--config", "run.toml", "--output", "cached"]);
    project.expect(0, &["--config", "run.toml", "--output", "fresh", "--set", "data.cache_latents=false"]);
    for (cached, fresh) in losses(&project, "cached").into_iter().zip(losses(&project, "fresh")) {
        // fp32; only the batch in which the VAE saw an image differs.
        assert!((cached - fresh).abs() < 1e-4 * cached.abs(), "{cached} {fresh}");
    }
}

#[test]
fn the_number_of_threads_changes_no_loss_beyond_rounding() {
    let project = Project::new();
    let run = |output: &str, threads: usize, steps: usize| {
        let (threads, steps) = (format!("train.threads={threads}"), format!("train.max_steps={steps}"));
        let args = ["--config", "run.toml", "--output", output, "--set", &threads, "--set", &steps];
        let more = ["--set", "samples.prompts=[]", "--set", "checkpoint.allow_changes=[\"train.max_steps\"]"];
        project.expect(0, &[&args[..], &more].concat()).1
    };
    let note = "the run was begun with ";
    for (output, threads) in [("one", 1), ("two", 2)] {
        assert!(!run(output, threads, 6).contains(note), "{threads}");
    }
    run("continued", 1, 4);
    let said = run("continued", 2, 6);
    assert!(said.contains(note) && said.contains(" 1 threads, ") && said.contains(" 2 threads, "), "{said}");
    let expected = losses(&project, "one");
    assert_eq!(expected.len(), 6);
    for output in ["two", "continued"] {
        let found = losses(&project, output);
        assert_eq!(found.len(), 6, "{output}");
        for (found, expected) in found.into_iter().zip(&expected) {
            // fp32; the sums are only taken in another order.
            assert!((found - expected).abs() < 1e-5 * expected, "{output}: {found}, {expected}");
        }
    }
}

/// The loss of each step.
fn losses(project: &Project, folder: &str) -> Vec<f64> {
    let metrics = fs::read_to_string(project.path(folder).join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    metrics.lines().map(loss).collect()
}

#[test]
fn half_precisions_have_the_losses_of_full_precision() {
    let project = Project::new();
    for name in ["fp32", "bf16", "fp16"] {
        let set = format!("precision.compute=\"{name}\"");
        project.expect(0, &["--config", "run.toml", "--output", name, "--set", &set, "--set", "samples.prompts=[]"]);
    }
    for name in ["bf16", "fp16"] {
        for (half, full) in losses(&project, name).into_iter().zip(losses(&project, "fp32")) {
            assert!((half - full).abs() < 2e-2 * full, "{name}: {half}, {full}");
            assert!(half != full, "{name} computes in fp32");
        }
    }
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    let project = Project::new();
    // All six images are in every step, whatever the order.
    let set = ["--set", "data.bucketing.enabled=false", "--set", "samples.prompts=[]"];
    let whole = ["--config", "run.toml", "--output", "whole", "--set", "data.batch_size=6"];
    project.expect(0, &[&whole[..], &set].concat());
    for (folder, size, times) in [("pairs", 2, 3), ("single", 1, 6)] {
        let (size, times) = (format!("data.batch_size={size}"), format!("train.gradient_accumulation_steps={times}"));
        let args = ["--config", "run.toml", "--output", folder, "--set", &size, "--set", &times];
        project.expect(0, &[&args[..], &set].concat());
        for (part, whole) in losses(&project, folder).into_iter().zip(losses(&project, "whole")) {
            // fp32; the sums are only taken in another order.
            assert!((part - whole).abs() < 1e-5 * whole, "{folder}: {part}, {whole}");
        }
    }
    assert_eq!(losses(&project, "single").len(), 6);
}

#[test]
fn full_training_saves_a_model_that_samples() {
    let project = Project::new();
    let set = ["--set", "method=\"full\"", "--set", "full.train_text_encoder=true", "--set", "train.max_steps=2"];
    project.expect(0, &[&["--config", "run.toml"], &set[..]].concat());
    let model = "outputs/run/run.safetensors";
    let (drawn, _) =
        project.expect(0, &["sample", "--model", model, "--prompt", "picture 1", "--steps", "2", "--output", "drawn"]);
    assert!(drawn.trim().ends_with("00000-0.png"), "{drawn}");
    assert!(project.path("drawn/00000-0.png").is_file());
}

#[test]
fn a_lora_samples_at_a_chosen_weight() {
    let project = Project::new();
    project.expect(0, &["--config", "run.toml", "--set", "optimizer.learning_rate=0.1"]);
    let model = fixture("tiny_sd1").display().to_string();
    let draw = |lora: &[&str], folder: &str| {
        let args = ["sample", "--model", &model, "--prompt", "picture 1", "--steps", "2", "--output", folder];
        project.expect(0, &[&args[..], lora].concat());
        image::open(project.path(folder).join("00000-0.png")).unwrap().into_rgb8()
    };
    let base = draw(&[], "base");
    assert!(base == draw(&["--lora", "outputs/run/run.safetensors:0"], "off"), "switched off it changes nothing");
    assert!(base != draw(&["--lora", "outputs/run/run.safetensors"], "on"), "switched on it changes the picture");
    let settings = String::from_utf8_lossy(&fs::read(project.path("on/00000-0.png")).unwrap()).into_owned();
    assert!(settings.contains("Sampler: PNDMScheduler") && settings.contains("LoRA: run"), "{settings:.400}");
}

#[test]
fn a_trace_of_a_short_or_continued_run_is_written() {
    let project = Project::new();
    project.expect(
        0,
        &["--config", "run.toml", "--set", "debug.trace=trace.safetensors", "--set", "debug.trace_steps=10"],
    );
    let whole = SafetensorsFile::open(project.path("trace.safetensors")).unwrap();
    assert!(whole.names().contains(&"step.6.loss") && !whole.names().contains(&"step.7.loss"));
    let checkpoint = project.path("outputs/run/checkpoints/step-000004").display().to_string();
    let args = ["--config", "run.toml", "--set", "debug.trace=later.safetensors", "--resume", &checkpoint];
    project.expect(0, &args);
    let later = SafetensorsFile::open(project.path("later.safetensors")).unwrap();
    assert!(later.names().contains(&"step.5.loss") && !later.names().contains(&"step.4.loss"));
    let moved = later.names().into_iter().find(|name| name.starts_with("initial.") && name.contains("lora_B")).unwrap();
    assert!(later.bytes(moved).unwrap().iter().any(|&byte| byte != 0), "the weights of the checkpoint, not new ones");
}

#[test]
fn an_average_is_saved_beside_the_weights_and_changes_no_step() {
    let project = Project::new();
    project.expect(0, &["--config", "run.toml", "--output", "plain"]);
    let ema = ["--set", "ema.enabled=true", "--set", "ema.save_raw=true", "--set", "checkpoint.keep_last=9"];
    let args = [&["--config", "run.toml", "--output", "averaged"], &ema[..]].concat();
    project.expect(0, &args);
    let bytes = |name: &str| fs::read(project.path(name)).unwrap();
    let tensors = |name: &str| {
        let file = SafetensorsFile::open(project.path(name)).unwrap();
        let names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.into_iter().map(|name| (file.bytes(&name).unwrap().into_owned(), name)).collect::<Vec<_>>()
    };
    assert_eq!(losses(&project, "plain"), losses(&project, "averaged"));
    assert!(tensors("plain/run.safetensors") == tensors("averaged/run-raw.safetensors"));
    assert!(tensors("plain/run.safetensors") != tensors("averaged/run.safetensors"));
    // Continued in the middle, the average is the same to the bit.
    let before = bytes("averaged/run.safetensors");
    let checkpoint = project.path("averaged/checkpoints/step-000002").display().to_string();
    project.expect(0, &[&args[..], &["--resume", &checkpoint]].concat());
    assert!(before == bytes("averaged/run.safetensors"));
}

#[test]
fn every_configuration_that_is_shipped_is_a_right_one() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut looked_at = 0;
    for entry in fs::read_dir(&configs).expect("it is in the repository").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let project = Project::new();
            project.expect(0, &["check", "--config", path.to_str().expect("a plain path")]);
            looked_at += 1;
        }
    }
    assert!(looked_at >= 6, "{looked_at}");
}
