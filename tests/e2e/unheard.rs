//! Nobody reads what a run says, or there is no place for it: it does its work all the same, and can be stopped.

use crate::project::Project;
use std::fs::{self, File};
use std::io::{PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// As `sdtrain train 2>&1 | tee log` leaves it where `tee` is killed.
#[test]
fn a_run_whose_listener_is_gone_saves_and_ends_with_75() {
    let project = Project::new();
    let keys = ["train.max_steps=100000", "checkpoint.every_steps=0", "samples.prompts=[]"];
    let args: Vec<&str> = keys.into_iter().flat_map(|key| ["--set", key]).collect();
    let (reader, writer) = pipe().expect("a pipe can be made");
    drop(reader);
    let running = project.start_unheard(writer, &[&["--config", "run.toml"], &args[..]].concat());
    running.wait_for(|| steps(&project) > 2);
    running.terminate();
    let (code, _) = running.end();
    assert_eq!(code, Some(75));
    assert_last_step_is_saved(&project);
}

#[test]
fn a_run_whose_log_is_on_a_full_disk_trains_to_the_end() {
    let project = Project::new();
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let running = project.start_unheard(full, &["--config", "run.toml", "--set", "samples.prompts=[]"]);
    let (code, _) = running.end();
    assert_eq!(code, Some(0));
    assert!(project.path("outputs/run/run.safetensors").is_file());
}

/// As behind `| less`, or on a terminal that Ctrl-S holds: whatever is written waits.
#[test]
fn a_run_that_is_held_back_by_its_listener_can_be_stopped_before_its_first_step() {
    let project = Project::new();
    let keys = [
        "method=dreambooth",
        "trainable=lora",
        "dreambooth.class_prompt=a house",
        "dreambooth.num_class_images=100000",
        "samples.prompts=[]",
    ];
    let args: Vec<&str> = keys.into_iter().flat_map(|key| ["--set", key]).collect();
    let (_reader, writer) = pipe().expect("a pipe can be made");
    let filler = opened_again(&writer);
    let running = project.start_unheard(writer, &[&["--config", "run.toml"], &args[..]].concat());
    let name_of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    let threads = format!("/proc/{}/task", running.id());
    // The engine listens, and has no step behind it before all pictures of the class are drawn.
    running.wait_for(|| {
        fs::read_dir(&threads).is_ok_and(|all| all.flatten().any(|thread| name_of_thread(thread).trim() == "signals"))
    });
    fill(filler);
    running.terminate();
    let (code, _) = running.end();
    assert_eq!(code, Some(75));
}

/// The same in the middle of the training, which says a line with every second step: that it saved it.
#[test]
fn a_run_that_is_held_back_by_its_listener_goes_on_and_saves_where_it_is_stopped() {
    let project = Project::new();
    let keys = ["train.max_steps=100000", "checkpoint.every_steps=2", "samples.prompts=[]"];
    let args: Vec<&str> = keys.into_iter().flat_map(|key| ["--set", key]).collect();
    let (_reader, writer) = pipe().expect("a pipe can be made");
    let filler = opened_again(&writer);
    let running = project.start_unheard(writer, &[&["--config", "run.toml"], &args[..]].concat());
    running.wait_for(|| steps(&project) > 2);
    fill(filler);
    let then = steps(&project);
    running.wait_for(|| steps(&project) > then + 20);
    running.terminate();
    let (code, _) = running.end();
    assert_eq!(code, Some(75));
    assert_last_step_is_saved(&project);
}

/// What fails in the program without libtorch, and in the one with it: its exit code, and what is said of it.
const FAILURES: [(&[&str], i32, &str); 2] = [
    (&["--config", "none.toml"], 2, "none.toml"),
    (&["--config", "run.toml", "--resume", "images"], 4, "`images` is not a complete checkpoint"),
];

/// As behind `| less` that nobody scrolls: why it failed is said once, and waits longer than any other line.
#[test]
fn why_a_run_failed_waits_for_its_listener() {
    for (args, expected, words) in FAILURES {
        let project = Project::new();
        let (mut reader, writer) = pipe().expect("a pipe can be made");
        fill(opened_again(&writer));
        let running = project.start_unheard(writer, args);
        running.wait_for(|| running.waits_for_its_reader());
        let mut said = String::new();
        reader.read_to_string(&mut said).expect("it is text");
        let (code, _) = running.end();
        assert_eq!(code, Some(expected), "{said}");
        assert!(said.contains("error: ") && said.contains(words), "{said}");
        assert!(said.ends_with('\n') && !said.contains("left out"), "{said}");
    }
}

#[test]
fn a_signal_ends_the_waiting_of_a_run_that_failed_with_its_exit_code() {
    for (args, expected, _) in FAILURES {
        for signal in ["TERM", "INT", "HUP"] {
            let project = Project::new();
            let (_reader, writer) = pipe().expect("a pipe can be made");
            fill(opened_again(&writer));
            let running = project.start_unheard(writer, args);
            running.wait_for(|| running.waits_for_its_reader());
            let began = Instant::now();
            running.signal(signal);
            let (code, _) = running.end();
            assert_eq!(code, Some(expected), "{signal}");
            assert!(began.elapsed() < Duration::from_secs(30), "{signal}: {:?}", began.elapsed());
        }
    }
}

/// Steps of the run that its metrics tell of.
fn steps(project: &Project) -> usize {
    fs::read_to_string(project.path("outputs/run/metrics.jsonl")).unwrap_or_default().lines().count()
}

fn assert_last_step_is_saved(project: &Project) {
    let newest = fs::read_to_string(project.path("outputs/run/checkpoints/latest")).unwrap();
    assert_eq!(newest.trim(), format!("step-{:06}", steps(project)));
    let manifest = project.path("outputs/run/checkpoints").join(newest.trim()).join("MANIFEST.json");
    assert!(manifest.is_file(), "{} is not there", manifest.display());
}

/// The same pipe in another way: one that says when it is full.
fn opened_again(writer: &PipeWriter) -> File {
    const O_NONBLOCK: i32 = 0o4000;
    let again = format!("/proc/self/fd/{}", writer.as_raw_fd());
    File::options().write(true).custom_flags(O_NONBLOCK).open(again).expect("it is open")
}

fn fill(mut pipe: File) {
    // A piece that does not fit is not taken at all.
    for piece in [1 << 12, 1] {
        while pipe.write_all(&vec![b'.'; piece]).is_ok() {}
    }
}
