//! Several processes: which one this is, and starting them.

use crate::project::{Project, Running, fixture, send};
use image::{Rgb, RgbImage};
use sdtrain_test_support::copy_folder;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

#[test]
fn variables_of_torchrun_are_recognised_and_contradictions_refused() {
    let project = Project::new();
    let with_rank = |rank: &str| {
        let mut command = project.command(&["env"]);
        command.envs([("RANK", rank), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")]);
        command.envs([("MASTER_ADDR", "node0"), ("MASTER_PORT", "29400"), ("TORCHELASTIC_USE_AGENT_STORE", "True")]);
        let output = command.output().expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, said, _) = with_rank("3");
    assert_eq!(code, Some(0));
    assert!(said.starts_with("rank 3 of 4 processes, local rank 1 of 2 on this node (torchrun)\n"), "{said}");
    let (code, _, said) = with_rank("4");
    assert_eq!(code, Some(2));
    assert!(said.contains("RANK      `4`    must be less than `WORLD_SIZE`, which is 4"), "{said}");
}

#[test]
fn a_launcher_shows_each_line_with_its_rank_and_ends_as_its_processes_do() {
    let project = Project::new();
    let (said, _) = project.expect(0, &["launch", "--nproc", "2", "--", "check", "--config", "run.toml"]);
    for rank in ["[rank 0] ", "[rank 1] "] {
        assert!(said.lines().any(|line| line.starts_with(rank)), "{said}");
    }
    let (_, said) = project.expect(2, &["launch", "--nproc", "2", "--", "check", "--config", "none.toml"]);
    assert!(said.contains("ended with exit code 2: the command line or configuration is wrong"), "{said}");
}

/// The command of two ranks that one launcher starts.
fn two_ranks<'a>(project: &Project, launch: &[&'a str], changes: &[&'a str]) -> Vec<&'a str> {
    launched(project, &[&["--nproc", "2"], launch].concat(), changes)
}

/// The command of a launcher: `run.toml` without what the first rank alone draws and measures, changed by `changes`.
fn launched<'a>(project: &Project, launch: &[&'a str], changes: &[&'a str]) -> Vec<&'a str> {
    let text = fs::read_to_string(project.path("run.toml")).unwrap();
    let (kept, _) = text.split_once("[samples]").expect("it draws samples");
    project.write("ranks.toml", &format!("{kept}[samples]\nprompts = []\n"));
    let each = ["data.batch_size=1"];
    let settings = each.iter().chain(changes).flat_map(|&change| ["--set", change]);
    ["launch"]
        .into_iter()
        .chain(launch.iter().copied())
        .chain(["--", "train", "--config", "ranks.toml"])
        .chain(settings)
        .collect()
}

/// The process of a rank that a launcher has started.
fn process_of(rank: usize, launcher: &Running) -> u32 {
    let (parent, own) = (format!("PPid:\t{}", launcher.id()), format!("RANK={rank}"));
    let is_it = |process: &Path| {
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let variables = fs::read(process.join("environ")).unwrap_or_default();
        status.lines().any(|line| line == parent) && variables.split(|&byte| byte == 0).any(|one| one == own.as_bytes())
    };
    let mut processes = fs::read_dir("/proc").expect("the system lists its processes").flatten();
    let found = processes.find(|process| is_it(&process.path())).map(|process| process.file_name());
    let id = found.and_then(|name| name.to_str()?.parse().ok());
    id.unwrap_or_else(|| panic!("rank {rank} does not run; so far:\n{}", launcher.said()))
}

/// How many steps a run has written down.
fn steps_of(project: &Project, output: &str) -> usize {
    fs::read_to_string(project.path(output).join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

fn product_of(project: &Project, output: &str) -> Vec<u8> {
    fs::read(project.path(output).join("run.safetensors")).expect("a product")
}

#[test]
fn ranks_that_are_killed_are_started_again_and_come_to_the_same_bits() {
    let project = Project::new();
    // The checkpoint on the way comes after both kills.
    let changes = ["train.max_steps=80", "checkpoint.every_steps=60"];
    project.expect(0, &[two_ranks(&project, &[], &changes), vec!["--output", "straight"]].concat());
    let running =
        project.start(&[two_ranks(&project, &["--restarts", "2"], &changes), vec!["--output", "killed"]].concat());
    for (rank, restart) in [(1, 1), (0, 2)] {
        let before = steps_of(&project, "killed");
        running.wait_for(|| steps_of(&project, "killed") > before + 3);
        send("KILL", process_of(rank, &running));
        running.wait_for_words(&format!("all are started again: restart {restart} of 2"));
        // The first rank holds the whole state: without the other it saves that, and without the first nobody does.
        let rescues = running.said().matches("what was learned before it is saved").count();
        assert_eq!(rescues, 1, "after rank {rank}: {}", running.said());
    }
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    for rank in [0, 1] {
        let start = format!("[launch] rank {rank} (process ");
        let tells = |line: &str| line.starts_with(&start) && line.contains("was ended by SIGKILL");
        assert!(said.lines().any(tells), "{said}");
    }
    assert_eq!(said.matches("[rank 0] continuing after step").count(), 2, "{said}");
    assert!(product_of(&project, "straight") == product_of(&project, "killed"), "other bits: {said}");
    assert_eq!(steps_of(&project, "killed"), 80, "each step once: {said}");
}

/// The first rank alone sees that it is missed, and all go the same way.
#[test]
fn ranks_write_the_product_of_a_finished_run_that_is_not_there() {
    let project = Project::new();
    let command = [two_ranks(&project, &[], &["train.max_steps=4"]), vec!["--output", "out"]].concat();
    project.expect(0, &command);
    let before = product_of(&project, "out");
    fs::remove_file(project.path("out/run.safetensors")).expect("it is there");
    let (_, said) = project.expect(0, &command);
    assert_eq!(said.matches("it is written from the checkpoint of step 4").count(), 1, "{said}");
    assert!(product_of(&project, "out") == before && steps_of(&project, "out") == 4, "{said}");
}

/// Of the launchers on two machines the one whose rank was killed starts it again before the other rank has noticed.
#[test]
fn a_rank_that_is_back_at_once_waits_for_those_that_lost_it() {
    let project = Project::new();
    let changes = ["train.max_steps=60", "checkpoint.every_steps=20"];
    project.expect(0, &[two_ranks(&project, &[], &changes), vec!["--output", "straight"]].concat());
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let master = format!("127.0.0.1:{port}");
    let launchers = ["0", "1"].map(|machine| {
        let launch = ["--nnodes", "2", "--node-rank", machine, "--nproc", "1", "--master", &master, "--restarts", "2"];
        project.start(&[launched(&project, &launch, &changes), vec!["--output", "killed"]].concat())
    });
    launchers[0].wait_for(|| steps_of(&project, "killed") > 3);
    send("KILL", process_of(1, &launchers[1]));
    let [first, second] = launchers.map(Running::end);
    assert_eq!((first.0, second.0), (Some(0), Some(0)), "{}\n{}", first.1, second.1);
    assert_eq!(first.1.matches("[rank 0] continuing after step").count(), 1, "{}", first.1);
    assert!(product_of(&project, "straight") == product_of(&project, "killed"), "other bits: {}", first.1);
}

#[test]
fn a_launcher_that_is_told_to_stop_saves_and_goes_on_to_the_same_bits() {
    assert_stops_and_goes_on(&[]);
}

#[test]
fn a_launcher_that_is_told_to_stop_saves_the_shares_of_an_optimizer() {
    assert_stops_and_goes_on(&["method=full", "ranks.shard_optimizer=true"]);
}

/// Two ranks whose launcher gets SIGTERM save the step they are at; the same command comes to the product of ranks that nobody stopped.
fn assert_stops_and_goes_on(changes: &[&str]) {
    let project = Project::new();
    // No checkpoint but the one that the signal asks for.
    let changes = [&["train.max_steps=60", "checkpoint.every_steps=0"], changes].concat();
    let to = |output: &'static str| [two_ranks(&project, &[], &changes), vec!["--output", output]].concat();
    project.expect(0, &to("straight"));
    let running = project.start(&to("stopped"));
    running.wait_for(|| steps_of(&project, "stopped") > 2);
    running.terminate();
    let (code, said) = running.end();
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains("[rank 0] a signal asks to stop") && !said.contains("the run failed"), "{said}");
    let steps = steps_of(&project, "stopped");
    let newest = fs::read_to_string(project.path("stopped/checkpoints/latest")).expect("a checkpoint");
    assert_eq!(newest.trim(), format!("step-{steps:06}"), "{said}");
    let (_, said) = project.expect(0, &to("stopped"));
    assert!(said.contains(&format!("continuing after step {steps}")), "{said}");
    assert!(product_of(&project, "straight") == product_of(&project, "stopped"), "other bits: {said}");
    assert_eq!(steps_of(&project, "stopped"), 60, "each step once: {said}");
}

/// How many of `what` each rank has encoded, as the first one says.
fn encoded(said: &str, what: &str) -> Vec<usize> {
    let start = format!("{what} encoded: ");
    let by_rank = said.lines().find_map(|line| line.split_once(start.as_str())).expect(said).1;
    by_rank.split(", ").map(|part| part.split(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn ranks_share_out_what_a_cache_lacks() {
    let project = Project::new();
    let folder = format!("data.cache_dir={}", project.path("cache").display());
    let changes = ["data.cache_text_encoder_outputs=true", "lora.train_text_encoder=false", &folder];
    let (_, said) = project.expect(0, &two_ranks(&project, &[], &changes));
    let images = encoded(&said, "images");
    assert_eq!((images.len(), images.iter().sum::<usize>()), (2, 6), "each picture by one rank: {said}");
    assert!(images.iter().all(|&made| made > 0), "{said}");
    // Which rank a text falls to its letters decide.
    let texts: usize = encoded(&said, "texts").iter().sum();
    assert!(texts >= 6, "{said}");
    assert!(said.contains("[rank 0] latents: 6 of 6 images are in"), "nothing was left for the lead: {said}");
    let all = format!("[rank 0] text encoder outputs: {texts} of {texts} texts are in");
    assert!(said.contains(&all), "each text by one rank: {said}");
}

/// Two ranks without a launcher, each in the folder of its project and with arguments of its own: how they end, and what they say.
fn ends_of(ranks: [(&Project, &[&str]); 2], config: &Path, output: &Path) -> [(Option<i32>, String); 2] {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let start = |rank: usize| -> Child {
        let (project, own) = ranks[rank];
        let mut command = project.command(&["train"]);
        command.arg("--config").arg(config).arg("--output").arg(output).args(own);
        for (name, value) in [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2)] {
            command.env(name, value.to_string());
        }
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        // As on two machines: what one has read, the other has not.
        command.env("XDG_CACHE_HOME", project.path("user-cache"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
    };
    [start(0), start(1)].map(|child| {
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

/// A copy of the fixtures' model at `target`, where one number of the UNet's largest tensor has another sign.
fn other_model(target: &Path) {
    copy_folder(&fixture("tiny_sd1"), target);
    let weights = target.join("unet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let range = |tensor: &serde_json::Value| -> Option<(u64, u64)> {
        let offsets = tensor["data_offsets"].as_array()?;
        Some((offsets.first()?.as_u64()?, offsets.get(1)?.as_u64()?))
    };
    let tensors = header.as_object().expect("a header").values().filter(|tensor| tensor["dtype"] == "F32");
    let (start, _) = tensors.filter_map(range).max_by_key(|(start, end)| end - start).expect("it has tensors");
    // The last byte of its second number, which holds the sign.
    bytes[8 + length + start as usize + 7] ^= 0x80;
    fs::write(&weights, bytes).unwrap();
}

/// Ranks of two machines, where the same paths may hold other files: the system's name for "where this process is" stands for that.
#[test]
fn ranks_with_other_files_or_threads_are_refused_by_name() {
    const CONFIG: &str = "name = \"run\"\nseed = 7\n[model]\npath = \"/proc/self/cwd/model\"\n[data]\nresolution = 64\n\
                          batch_size = 1\n[[data.subsets]]\npath = \"/proc/self/cwd/images\"\n[lora]\nrank = 2\n\
                          [train]\nmax_steps = 2\nthreads = 1\n[log]\ntensorboard = false\n";
    const WORDS: [&str; 4] =
        ["images and captions: ", "every weight of the base: ", "processor threads: ", "configuration, `"];
    let project_with = |has_other_model: bool| {
        let project = Project::new();
        match has_other_model {
            true => other_model(&project.path("model")),
            false => std::os::unix::fs::symlink(fixture("tiny_sd1"), project.path("model")).unwrap(),
        }
        project
    };
    let first = project_with(false);
    first.write("shared.toml", CONFIG);
    let other_image = |project: &Project| {
        RgbImage::from_pixel(64, 64, Rgb([1, 2, 3])).save(project.path("images/1.png")).unwrap();
    };
    let cases: [(&str, bool, &[&str], &[&str]); 4] = [
        ("nothing", false, &[], &[]),
        ("an image", false, &[], &WORDS[..1]),
        ("a weight", true, &[], &WORDS[1..2]),
        ("threads", false, &["--set", "train.threads=2"], &WORDS[2..]),
    ];
    for (what, has_other_model, own, named) in cases {
        let second = project_with(has_other_model);
        if what == "an image" {
            other_image(&second);
        }
        let ends = ends_of([(&first, &[]), (&second, own)], &first.path("shared.toml"), &first.path(what));
        for (code, said) in ends {
            assert_eq!(code, Some(if named.is_empty() { 0 } else { 8 }), "{what}: {said}");
            for words in WORDS {
                let lines: Vec<&str> = said.lines().filter(|line| line.contains(words)).collect();
                assert_eq!(!lines.is_empty(), named.contains(&words), "{what}: `{words}` in {said}");
                let names = |rank: &str| lines.iter().any(|line| line.ends_with(rank));
                assert!(lines.is_empty() || (names("at rank 0") && names("at rank 1")), "{what}: {said}");
            }
        }
    }
}
