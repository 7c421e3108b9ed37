//! Several ranks, threads of this process, against one: the same order, the same noise, the same weights to rounding.

use sdtrain_ranks::{Launcher, Place};
use sdtrain_recipe::TrainConfig;
use sdtrain_signals::StopRequest;
use sdtrain_state_dict::{Reader, SafetensorsFile};
use sdtrain_torch::{Store, StoreAddress};
use sdtrain_torch_test_support::{fixture_folder, write_inpainting_folder};
use sdtrain_trainer::{Error, Outcome, Ranks, ResumePolicy, RunOptions, train_together};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use tch::{Device, Kind};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port()
}

/// Ten pictures of two sizes, so that an epoch has buckets, and batches that are not full.
struct Project(tempfile::TempDir);

const LORA: &str = "[lora]\nrank = 2\ntrain_text_encoder = true\n";
const FULL: &str = "method = \"full\"\n[full]\ntrain_text_encoder = true\n";
const AUTOENCODER: &str = "method = \"vae\"\n";
const DREAMBOOTH: &str = "method = \"dreambooth\"\ntrainable = \"lora\"\n[dreambooth]\nclass_prompt = \"a poster\"\n\
     prior = \"base_prediction\"\n";
const INPAINTING: &str = "method = \"inpainting\"\n";
const WORDS: &str = "method = \"textual_inversion\"\n[textual_inversion]\ntokens = [{word = \"snorp\"}]\n";

impl Project {
    fn new(method: &str) -> Project {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let images = folder.path().join("images");
        fs::create_dir(&images).expect("there is room");
        for number in 0..10u8 {
            let height = if number < 6 { 64 } else { 48 };
            let color = |x: u32, y: u32| image::Rgb([number * 25, (x * 4) as u8, (y * 4) as u8]);
            let picture = image::RgbImage::from_fn(64, height, color);
            picture.save(images.join(format!("{number}.png"))).expect("there is room");
            fs::write(images.join(format!("{number}.txt")), "poster, snorp, small").expect("there is room");
        }
        let model = match method {
            INPAINTING => {
                write_inpainting_folder("tiny_sd1", &folder.path().join("model"));
                folder.path().join("model")
            }
            _ => fixture_folder().join("tiny_sd1"),
        };
        let text = format!(
            "{method}[model]\npath = \"{}\"\n[data]\nresolution = 64\nbatch_size = 1\nbucketing = {{ enabled = true }}\n\
             [[data.subsets]]\npath = \"images\"\nshuffle_caption = true\n\
             [optimizer]\ntype = \"adamw\"\nlearning_rate = 1e-3\n[log]\ntensorboard = false\n\
             [checkpoint]\nevery_steps = 5\n",
            model.canonicalize().expect("a fixture").display()
        );
        let project = Project(folder);
        fs::write(project.path("run.toml"), text).expect("there is room");
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self, changes: &[&str]) -> TrainConfig {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        TrainConfig::load(&self.path("run.toml"), &changes).unwrap_or_else(|error| panic!("{error}")).config
    }

    /// Runs it by so many ranks, each with changes of its own behind those of all.
    fn outcomes(
        &self,
        output: &str,
        size: usize,
        changes: &[&str],
        of_rank: fn(usize) -> Vec<String>,
    ) -> Vec<Result<Outcome, Error>> {
        self.outcomes_at(None, output, size, changes, of_rank)
    }

    /// The same where a launcher holds the store, at this port; absent, rank 0 hosts one.
    fn outcomes_at(
        &self,
        launchers_port: Option<u16>,
        output: &str,
        size: usize,
        changes: &[&str],
        of_rank: fn(usize) -> Vec<String>,
    ) -> Vec<Result<Outcome, Error>> {
        let port = launchers_port.unwrap_or_else(free_port);
        let has_agent_store = launchers_port.is_some();
        let rank = |rank| {
            let own = of_rank(rank);
            let all: Vec<&str> = changes.iter().copied().chain(own.iter().map(String::as_str)).collect();
            let config = self.config(&all);
            let options = RunOptions { output: self.path(output), device: "cpu".into(), resume: ResumePolicy::Auto };
            thread::spawn(move || {
                let place = Place { has_agent_store, ..place_of(rank, size, port) };
                let ranks = Rc::new(Ranks::join(&place, &config.ranks)?);
                let outcome = train_together(&StopRequest::never(), config, &options, &ranks);
                if let Err(error) = &outcome {
                    ranks.fail(&error.to_string());
                }
                ranks.leave();
                outcome
            })
        };
        let ranks: Vec<_> = (0..size).map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    }

    /// The same where every rank comes to the end.
    fn run(&self, output: &str, size: usize, changes: &[&str]) -> Learned {
        for outcome in self.outcomes(output, size, changes, |_| Vec::new()) {
            match outcome {
                Ok(Outcome::Done(_)) => {}
                other => panic!("{output}: {other:?}"),
            }
        }
        Learned::of(&self.path(output))
    }
}

fn place_of(rank: usize, size: usize, port: u16) -> Place {
    Place {
        rank,
        local_rank: rank,
        world_size: size,
        local_world_size: size,
        master_addr: "127.0.0.1".into(),
        master_port: port,
        has_agent_store: false,
        restart_count: 0,
        launcher: Launcher::Variables,
    }
}

/// What came of a run.
struct Learned {
    losses: Vec<f64>,
    /// Of the last checkpoint: weights and optimizer state.
    state: SafetensorsFile,
}

impl Learned {
    fn of(output: &Path) -> Learned {
        let metrics = fs::read_to_string(output.join("metrics.jsonl")).expect("metrics");
        let loss = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).expect("a record");
            record["loss"].as_f64().unwrap_or(f64::NAN)
        };
        let newest = fs::read_to_string(output.join("checkpoints/latest")).expect("a checkpoint");
        let state = output.join("checkpoints").join(newest.trim()).join("tensors.safetensors");
        Learned {
            losses: metrics.lines().map(loss).collect(),
            state: SafetensorsFile::open(&state).expect("a checkpoint"),
        }
    }

    /// The largest difference of losses, and of weights against the largest weight of their tensor.
    fn distance(&self, other: &Learned) -> (f64, f64) {
        assert_eq!(self.losses.len(), other.losses.len());
        assert_eq!(self.state.names(), other.state.names());
        let losses = self.losses.iter().zip(&other.losses).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let read = |file: &SafetensorsFile, name: &str| {
            let tensor = sdtrain_model::read_tensor(file, name, None, Device::Cpu);
            tensor.unwrap_or_else(|error| panic!("{error}")).to_kind(Kind::Double)
        };
        let weights = self.state.names().into_iter().filter(|name| name.starts_with("parameter.")).map(|name| {
            let (a, b) = (read(&self.state, name), read(&other.state, name));
            (&a - b).abs().max().double_value(&[]) / a.abs().max().double_value(&[]).max(1e-6)
        });
        (losses, weights.fold(0.0, f64::max))
    }

    fn assert_close(&self, other: &Learned, what: &str) {
        let (losses, weights) = self.distance(other);
        println!("{what}: losses differ by {losses:e}, weights by {weights:e}");
        assert!(losses < 1e-5 && weights < 1e-3, "{what}: losses differ by {losses:e}, weights by {weights:e}");
        let first = self.losses[0];
        assert!(self.losses.iter().any(|loss| (loss - first).abs() > 1e-3), "{what}: nothing was learned");
    }
}

const TWENTY: &str = "train.max_steps=20";

#[test]
fn two_ranks_learn_what_one_learns_from_the_same_batches() {
    for (name, method, settings) in [
        ("lora", LORA, &[][..]),
        ("lora, accumulated", LORA, &["train.gradient_accumulation_steps=2", "lora.dropout=0.2"]),
        ("words", WORDS, &[]),
        ("autoencoder", AUTOENCODER, &[]),
        ("dreambooth beside the base's prediction", DREAMBOOTH, &[]),
        ("inpainting", INPAINTING, &[]),
        ("full, flat", FULL, &["ranks.reducer=flat"]),
        ("full, weights in bf16", FULL, &["precision.weights=bf16"]),
        ("full, fp16", FULL, &["precision.compute=fp16"]),
        ("full, overlapped", FULL, &["ranks.reducer=overlapped"]),
        ("full, overlapped, accumulated", FULL, &["train.gradient_accumulation_steps=2"]),
        ("full, the text encoder stops", FULL, &["train.max_text_encoder_steps=6"]),
        ("full, blocks computed again", FULL, &["train.gradient_checkpointing=true"]),
        ("full, shared out", FULL, &["ranks.shard_optimizer=true"]),
        ("full, shared out, averaged", FULL, &["ranks.shard_optimizer=true", "ema.enabled=true", "ema.decay=0.9"]),
    ] {
        let project = Project::new(method);
        let with = |more: &[&'static str]| [&[TWENTY][..], settings, more].concat();
        let two = project.run("two", 2, &with(&[]));
        // The parts of both ranks, one after the other: the same sums.
        let one = project.run("one", 1, &with(&["train.world_size=2"]));
        one.assert_close(&two, name);
    }
}

#[test]
fn two_ranks_learn_what_one_learns_from_batches_of_twice_the_size() {
    let project = Project::new(LORA);
    let two = project.run("two", 2, &[TWENTY]);
    let one = project.run("one", 1, &[TWENTY, "data.batch_size=2"]);
    one.assert_close(&two, "batches of twice the size");
}

/// What went into each forward pass, as hashes, sorted: which process made it and in which order does not count.
fn inputs_of(project: &Project, output: &str, size: usize) -> Vec<(String, String)> {
    let trace = project.path(output).with_extension("safetensors");
    let setting = format!("debug.trace={}", trace.display());
    project.run(output, size, &["train.max_steps=6", "train.world_size=4", "debug.trace_steps=6", &setting]);
    let mut passes = BTreeMap::new();
    for rank in 0..size {
        let own = if rank == 0 { trace.clone() } else { trace.with_extension(format!("rank-{rank}.safetensors")) };
        let file = SafetensorsFile::open(&own).expect("a trace of each rank");
        for name in file.names() {
            let Some((step, rest)) = name.strip_prefix("step.").and_then(|name| name.split_once('.')) else { continue };
            if ["loss", "grad_norm", "lr"].contains(&rest) {
                continue;
            }
            let (micro, input) = match rest.strip_prefix("micro.").and_then(|rest| rest.split_once('.')) {
                Some((micro, input)) => (micro, input),
                None => ("0", rest),
            };
            let bytes = file.bytes(name).expect("what was written");
            let hasher: &mut blake3::Hasher = passes.entry((step.to_owned(), rank, micro.to_owned())).or_default();
            hasher.update(input.as_bytes()).update(&bytes);
        }
    }
    let mut hashes: Vec<_> =
        passes.into_iter().map(|((step, ..), hasher)| (step, hasher.finalize().to_string())).collect();
    hashes.sort();
    hashes
}

#[test]
fn any_number_of_ranks_sees_the_same_examples_with_the_same_noise() {
    let project = Project::new(LORA);
    let alone = inputs_of(&project, "by_1", 1);
    assert!(alone.len() >= 18, "six steps of up to four parts: {}", alone.len());
    for size in 2..=4 {
        assert_eq!(alone, inputs_of(&project, &format!("by_{size}"), size), "{size} ranks");
    }
}

#[test]
fn both_reducers_add_up_to_the_same() {
    for (name, size, settings) in
        [("two", 2, &[][..]), ("three, accumulated", 3, &["train.gradient_accumulation_steps=2"])]
    {
        let project = Project::new(FULL);
        let by = |reducer| {
            project.run(reducer, size, &[&[TWENTY, &format!("ranks.reducer={reducer}")][..], settings].concat())
        };
        by("flat").assert_close(&by("overlapped"), name);
    }
}

#[test]
fn a_run_is_continued_by_another_number_of_ranks() {
    const NONE: &[&str] = &[];
    const SHARED: &[&str] = &["ranks.shard_optimizer=true"];
    const OF_TWO: &[&str] = &["train.world_size=2"];
    // The settings of the first part and of the second, each with the number of ranks that do it.
    for (what, method, first, second) in [
        ("two, then one", LORA, (2, NONE), (1, NONE)),
        ("two that share out, then one", FULL, (2, SHARED), (1, SHARED)),
        ("one, then two", LORA, (1, OF_TWO), (2, OF_TWO)),
        ("three that share out, then two", FULL, (3, SHARED), (2, SHARED)),
        ("two, then two that share out", FULL, (2, NONE), (2, SHARED)),
    ] {
        let project = Project::new(method);
        let parts = first.0.max(second.0);
        let straight = project.run("straight", parts, &[&[TWENTY], first.1].concat());
        let allowed = "checkpoint.allow_changes=[\"train.max_steps\"]";
        project.run("other", first.0, &[&["train.max_steps=10", allowed], first.1].concat());
        let continued = project.run("other", second.0, &[&[TWENTY, allowed], second.1].concat());
        straight.assert_close(&continued, what);
        let kept = fs::read_to_string(project.path("other/config.toml")).expect("the configuration");
        assert!(kept.contains(&format!("world_size = {parts}")), "{what}: the batch stays that of {parts} ranks");
    }
    // By more ranks than the batch is for, or with another batch, it is refused by name.
    let project = Project::new(LORA);
    project.run("run", 1, &["train.max_steps=6", "train.world_size=1"]);
    for (size, key, names) in [(2, "train.world_size=1", "2 processes"), (1, "train.world_size=3", "train.world_size")]
    {
        let changes = [TWENTY, "checkpoint.allow_changes=[\"train.max_steps\"]", key];
        for outcome in project.outcomes("run", size, &changes, |_| Vec::new()) {
            let error = outcome.expect_err("it cannot go on").to_string();
            assert!(error.contains(names), "{error}");
        }
    }
}

/// Of three numbers or more the sum depends on their order, and that of a reducer on its buckets.
#[test]
fn three_ranks_that_overlap_go_on_to_the_same_bits() {
    const OVERLAPPED: &str = "ranks.reducer=overlapped";
    const ALLOWED: &str = "checkpoint.allow_changes=[\"train.max_steps\"]";
    // From the eighth step on other parameters learn, and the order is a new one.
    const STOPS: &str = "train.max_text_encoder_steps=7";
    let project = Project::new(FULL);
    for (name, settings) in [("all", &[OVERLAPPED, ALLOWED][..]), ("stops", &[OVERLAPPED, ALLOWED, STOPS])] {
        let straight = project.run(&format!("straight_{name}"), 3, &[&["train.max_steps=12"], settings].concat());
        // At 7 the next step is the one that shows the new order, at 9 it is known.
        for stop in [3, 7, 9] {
            let output = format!("{name}_{stop}");
            project.run(&output, 3, &[&[format!("train.max_steps={stop}").as_str()], settings].concat());
            let continued = project.run(&output, 3, &[&["train.max_steps=12"], settings].concat());
            assert_eq!(straight.distance(&continued), (0.0, 0.0), "{output}");
        }
    }
}

#[test]
fn a_batch_that_stays_as_large_is_shared_out_anew() {
    const ALLOWED: &str = "checkpoint.allow_changes=[\"train.max_steps\"]";
    const TEN: &str = "train.max_steps=10";
    let project = Project::new(LORA);
    let straight = project.run("straight", 1, &[TWENTY, "data.batch_size=2"]);
    project.run("more", 1, &[TEN, ALLOWED, "data.batch_size=2"]);
    straight.assert_close(&project.run("more", 2, &[TWENTY, ALLOWED]), "one with two images, then two with one");
    project.run("fewer", 2, &[TEN, ALLOWED]);
    let fewer = project.run("fewer", 1, &[TWENTY, ALLOWED, "data.batch_size=2"]);
    straight.assert_close(&fewer, "two with one image, then one with two");
    // Twice as large a batch is another.
    project.run("larger", 1, &[TEN, ALLOWED, "data.batch_size=2"]);
    for outcome in project.outcomes("larger", 2, &[TWENTY, ALLOWED, "data.batch_size=2"], |_| Vec::new()) {
        let error = outcome.expect_err("it cannot go on").to_string();
        assert!(error.contains("train.world_size"), "{error}");
    }
}

/// torchrun hosts the store itself, and its store outlives a restart (`TORCHELASTIC_USE_AGENT_STORE`).
#[test]
fn ranks_that_are_started_again_at_a_launchers_store_do_not_hear_what_was_said_there_before() {
    const ALLOWED: &str = "checkpoint.allow_changes=[\"train.max_steps\"]";
    let project = Project::new(LORA);
    let (host, timeout) = ("127.0.0.1".to_owned(), Duration::from_secs(60));
    let port = free_port();
    let address = StoreAddress { host, port, prefix: "launcher".into(), timeout };
    let store = Store::connect(&address, true).expect("the port is free");
    let start = |changes: &[&str], of_rank: fn(usize) -> Vec<String>| {
        project.outcomes_at(Some(port), "run", 2, changes, of_rank)
    };
    let differ = |rank: usize| if rank == 1 { vec!["seed=7".to_owned()] } else { Vec::new() };
    let agree = |_: usize| Vec::new();
    // In the first start nobody else comes.
    for rank in 0..2 {
        let place = Place { has_agent_store: true, ..place_of(rank, 2, port) };
        let config = project.config(&[TWENTY, "ranks.start_timeout_seconds=1"]).ranks;
        let error = Ranks::join(&place, &config).map(drop).expect_err("it is alone");
        assert!(error.to_string().contains("did not come within 1 s"), "{error}");
    }
    // Both leave with an error, which they have told each other there.
    for outcome in start(&["train.max_steps=10", ALLOWED], differ) {
        assert!(matches!(outcome, Err(Error::RanksDiffer { .. })), "{outcome:?}");
    }
    for changes in [["train.max_steps=10", ALLOWED], [TWENTY, ALLOWED]] {
        for outcome in start(&changes, agree) {
            assert!(matches!(outcome, Ok(Outcome::Done(_))), "{outcome:?}");
        }
    }
    drop(store);
    let straight = project.run("straight", 2, &[TWENTY]);
    straight.assert_close(&Learned::of(&project.path("run")), "started again at the same store");
}

/// Who makes what the whole program says: tests/e2e/launch.rs.
#[test]
fn what_ranks_have_kept_in_a_cache_is_found_by_others_and_not_made_again() {
    let project = Project::new(LORA);
    let folder = format!("data.cache_dir={}", project.path("cache").display());
    let changes = ["train.max_steps=4", &folder, "lora.train_text_encoder=false"];
    let cached = project.run("run", 2, &changes);
    let files = |folder: &Path| {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder").flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found
    };
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).expect("a file");
    let cache = project.path("cache");
    let made: Vec<_> = files(&cache).iter().map(|path| (path.clone(), changed(path))).collect();
    assert!(made.len() >= 10, "an entry for each picture: {made:?}");
    let again = project.run("again", 3, &[&changes[..], &["train.world_size=3"]].concat());
    assert_eq!(files(&cache).len(), made.len());
    assert!(made.iter().all(|(path, time)| changed(path) == *time), "nothing is made again");
    assert_eq!((cached.losses.len(), again.losses.len()), (4, 4));
}

#[test]
fn ranks_that_would_not_compute_the_same_are_named() {
    let project = Project::new(LORA);
    let of_rank =
        |rank: usize| if rank == 1 { vec!["seed=7".to_owned(), "noise.offset=0.1".to_owned()] } else { Vec::new() };
    for outcome in project.outcomes("run", 3, &[TWENTY], of_rank) {
        let error = outcome.expect_err("they differ");
        assert!(matches!(error, Error::RanksDiffer { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("seed: 7 at rank 1") && text.contains("at ranks 0 and 2"), "{text}");
        assert!(text.contains("configuration, `noise`"), "{text}");
    }
    // Also where the difference decides what they wait for next.
    let of_rank = |rank: usize| vec![format!("data.cache_text_encoder_outputs={}", rank == 0)];
    let folder = format!("data.cache_dir={}", project.path("cache").display());
    for outcome in project.outcomes("run", 2, &[TWENTY, &folder, "lora.train_text_encoder=false"], of_rank) {
        let text = outcome.expect_err("they differ").to_string();
        assert!(text.contains("configuration, `data`"), "{text}");
    }
    assert!(
        !project.path("run/checkpoints").exists()
            || fs::read_dir(project.path("run/checkpoints")).is_ok_and(|mut entries| entries.next().is_none())
    );
}

#[test]
fn a_batch_of_one_rank_that_is_not_finite_is_skipped_by_all_and_named() {
    let project = Project::new(LORA);
    let of_rank = |rank: usize| match rank {
        1 => vec!["debug.faults=[{step=3, parameter=\"unet.conv_in.bias\"}]".to_owned()],
        _ => Vec::new(),
    };
    // With fp16 each rank has a loss scale of its own, which must follow what the others found.
    for precision in ["fp32", "fp16"] {
        let setting = format!("precision.compute={precision}");
        for outcome in project.outcomes(precision, 2, &["train.max_steps=5", &setting], of_rank) {
            assert!(matches!(outcome, Ok(Outcome::Done(_))), "{precision}: {outcome:?}");
        }
        let run = project.path(precision);
        let evidence = fs::read(run.join("not-finite/step-000003.json")).expect("it was skipped");
        let evidence: serde_json::Value = serde_json::from_slice(&evidence).expect("JSON");
        let passes = evidence["passes"].as_array().expect("passes");
        let blamed: Vec<bool> = passes.iter().map(|pass| pass["loss_is_finite"] == true).collect();
        assert_eq!(blamed, [true, false], "{precision}: the second rank's part is to blame");
        assert_eq!(Learned::of(&run).losses.len(), 5, "{precision}");
    }
}

#[test]
fn what_cannot_be_added_up_is_refused_by_name() {
    let project = Project::new(FULL);
    let changes = ["train.max_steps=2", "train.fused_backward=true", "train.max_grad_norm=0"];
    for outcome in project.outcomes("run", 2, &changes, |_| Vec::new()) {
        let error = outcome.expect_err("gradients are gone before they are added up").to_string();
        assert!(error.contains("train.fused_backward") || error.contains("rank"), "{error}");
    }
}
