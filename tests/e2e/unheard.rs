//! Nobody reads what a run says, or there is no place for it: it does its work all the same, and can be stopped.

use crate::project::Project;
use std::fs::{self, File};
use std::io::{Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// As `sdtrain train 2>&1 | tee log` leaves it where `tee` is killed.
#[test]
fn a_run_whose_listener_is_gone_saves_and_ends_with_75() {
    let project = Project::new();
    let keys = ["train.max_steps=100000", "checkpoint.every_steps=0", "samples.prompts=[]"];
    let args: Vec<&str> = keys.into_iter().flat_map(|key| ["--set", key]).collect();
    let (reader, writer) = pipe().expect("a pipe can be made");
    drop(reader);
    let running = project.start_unheard(writer, &[&["--config", "run.toml"], &args[..]].concat());
    let steps = || fs::read_to_string(project.path("outputs/run/metrics.jsonl")).unwrap_or_default().lines().count();
    running.wait_for(|| steps() > 2);
    running.terminate();
    let (code, _) = running.end();
    assert_eq!(code, Some(75));
    let newest = fs::read_to_string(project.path("outputs/run/checkpoints/latest")).unwrap();
    assert_eq!(newest.trim(), format!("step-{:06}", steps()));
    let manifest = project.path("outputs/run/checkpoints").join(newest.trim()).join("MANIFEST.json");
    assert!(manifest.is_file(), "{} is not there", manifest.display());
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
    const O_NONBLOCK: i32 = 0o4000;
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
    // The same pipe in another way: one that says when it is full.
    let again = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let mut filler = File::options().write(true).custom_flags(O_NONBLOCK).open(again).expect("it is open");
    let running = project.start_unheard(writer, &[&["--config", "run.toml"], &args[..]].concat());
    let name_of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    let threads = format!("/proc/{}/task", running.id());
    // The engine listens, and has no step behind it before all pictures of the class are drawn.
    running.wait_for(|| {
        fs::read_dir(&threads).is_ok_and(|all| all.flatten().any(|thread| name_of_thread(thread).trim() == "signals"))
    });
    // A piece that does not fit is not taken at all.
    for piece in [1 << 12, 1] {
        while filler.write_all(&vec![b'.'; piece]).is_ok() {}
    }
    running.terminate();
    let (code, _) = running.end();
    assert_eq!(code, Some(75));
}
