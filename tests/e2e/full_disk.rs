//! A disk that others fill while a run writes to it (SimpleTuner#2353, mmdetection#12069, LichtFeld#717), which needs root, for a file system
//! of its own; and one that takes no large files.

use crate::errors::refused_unread;
use crate::project::Project;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk in memory, at a folder.
struct Disk(PathBuf);

impl Disk {
    /// Where this user may not mount one, nothing, which is said.
    fn mount(folder: PathBuf) -> Option<Disk> {
        fs::create_dir_all(&folder).expect("there is room");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&folder).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Disk(folder)),
            _ => {
                // Past the capture of the test's output: nobody is to think that it ran.
                let _ = writeln!(std::io::stderr().lock(), "SKIPPED: a disk to fill needs root and `mount`");
                None
            }
        }
    }

    /// Takes all that is left of it.
    fn fill(&self) {
        let mut filler = File::create(self.0.join("of_others")).expect("a name takes no room");
        // In small pieces at the end: a write that fails may have taken nothing.
        for piece in [1 << 20, 1 << 12, 1] {
            while filler.write_all(&vec![1; piece]).is_ok() {}
        }
    }

    /// From now on nobody can write to it.
    fn make_read_only(&self) {
        let remounted =
            Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status().expect("it has mounted before");
        assert!(remounted.success());
    }

    /// Takes it away, whoever uses it.
    fn unmount(&self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status().expect("it has mounted before");
        assert!(unmounted.success());
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("of_others")).expect("it is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Which says so where it is gone already.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

const RUN: [&str; 11] = [
    "--config",
    "run.toml",
    "--output",
    "disk/run",
    "--set",
    "samples.prompts=[]",
    "--set",
    "checkpoint.keep_last=1",
    "--set",
    "train.max_steps=900",
    "--set",
];

/// Whether a safetensors file is as long as its header says.
fn is_whole(path: &Path) -> bool {
    let mut length = [0; 8];
    let mut file = File::open(path).expect("it is there");
    file.read_exact(&mut length).expect("a header");
    let mut header = vec![0; u64::from_le_bytes(length) as usize];
    file.read_exact(&mut header).expect("a header");
    let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
    let ends = header.as_object().expect("tensors").values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    let end = ends.max().expect("at least one tensor");
    fs::metadata(path).expect("it is there").len() == 8 + u64::from_le_bytes(length) + end
}

#[test]
fn a_disk_that_others_fill_does_not_keep_a_run_from_its_product() {
    let project = Project::new();
    let Some(disk) = Disk::mount(project.path("disk")) else { return };
    let running = project.start(&[&RUN[..], &["checkpoint.every_steps=100"]].concat());
    running.wait_for_words("step-000100");
    assert!(project.path("disk/run/.reserve").is_file());
    disk.fill();
    running.wait_for_words("the room that was kept for a checkpoint has been given up");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(is_whole(&project.path("disk/run/run.safetensors")), "{said}");
    assert!(project.path("disk/run/checkpoints/step-000900/MANIFEST.json").is_file(), "{said}");
    assert!(!project.path("disk/run/.reserve").exists());
}

#[test]
fn a_run_that_is_stopped_on_a_full_disk_says_that_it_can_go_on() {
    let project = Project::new();
    let Some(disk) = Disk::mount(project.path("disk")) else { return };
    let keys = ["checkpoint.every_steps=0", "--set", "train.max_steps=100000"];
    let running = project.start(&[&RUN[..], &keys].concat());
    running.wait_for(|| fs::metadata(project.path("disk/run/metrics.jsonl")).is_ok_and(|file| file.len() > 0));
    disk.fill();
    running.terminate();
    let (code, said) = running.end();
    assert_eq!(code, Some(75), "{said}");
    let record = fs::read_to_string(project.path("disk/run/run.json")).expect("it is there");
    assert!(record.contains("\"stopped\""), "{record}");
    assert!(project.path("disk/run/checkpoints/latest").is_file(), "{said}");
}

#[test]
fn what_an_error_leaves_is_saved_in_the_room_that_was_kept() {
    let project = Project::new();
    let Some(disk) = Disk::mount(project.path("disk")) else { return };
    let keys = ["checkpoint.every_steps=0", "--set", "data.cache_latents=false", "--set", "train.max_steps=100000"];
    let running = project.start(&[&RUN[..], &keys].concat());
    running.wait_for(|| fs::metadata(project.path("disk/run/metrics.jsonl")).is_ok_and(|file| file.len() > 0));
    assert!(project.path("disk/run/.reserve").is_file());
    disk.fill();
    fs::rename(project.path("images"), project.path("elsewhere")).expect("it is there");
    let (code, said) = running.end();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("what was learned before it is saved"), "{said}");
    assert!(!project.path("disk/run/.reserve").exists(), "{said}");
}

#[test]
fn a_run_waits_for_room_and_ends_with_a_whole_product() {
    let project = Project::new();
    let Some(disk) = Disk::mount(project.path("disk")) else { return };
    let running =
        project.start(&[&RUN[..], &["checkpoint.every_steps=100", "--set", "checkpoint.reserve=false"]].concat());
    running.wait_for_words("step-000100");
    disk.fill();
    running.wait_for_words("trying again");
    disk.make_room();
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(is_whole(&project.path("disk/run/run.safetensors")), "{said}");
}

#[test]
fn a_disk_that_is_full_from_the_start_is_refused_before_anything_is_read() {
    let project = Project::new();
    let Some(disk) = Disk::mount(project.path("disk")) else { return };
    disk.fill();
    let said = refused_unread(&project, 7, &[&RUN[..], &["checkpoint.every_steps=100"]].concat());
    assert!(said.contains("disk/run") && said.contains("No space left on device"), "{said}");
}

/// There is room for a file, and none for what the run writes: told from the headers of the model's files.
#[test]
fn a_disk_that_is_too_small_is_refused_before_the_images_are_looked_at() {
    let project = Project::new();
    let Some(_disk) = Disk::mount(project.path("disk")) else { return };
    let many = ["checkpoint.every_steps=100", "--set", "checkpoint.keep_last=100000"];
    // Of a checkpoint only that it is there is known by then.
    for resume in ["auto", "never", "images"] {
        let said = refused_unread(&project, 7, &[&RUN[..], &many, &["--resume", resume]].concat());
        assert!(said.contains("its disk has") && said.contains("hint: free some space"), "{resume}: {said}");
        assert!(said.contains("`disk/run`"), "{resume}: {said}");
    }
}

/// What `--resume never` moves aside stays on the disk, and none of it is the new run's.
#[test]
fn checkpoints_that_are_moved_aside_do_not_count_as_there() {
    let project = Project::new();
    let Some(_disk) = Disk::mount(project.path("disk")) else { return };
    for step in 0..2000 {
        fs::create_dir_all(project.path(&format!("disk/run/checkpoints/step-{step:06}"))).expect("there is room");
    }
    let many = ["checkpoint.every_steps=100", "--set", "checkpoint.keep_last=2000", "--resume", "never"];
    let said = refused_unread(&project, 7, &[&RUN[..], &many].concat());
    assert!(said.contains("its disk has") && said.contains("2001 checkpoints"), "{said}");
}

#[test]
fn a_run_that_fills_a_whole_disk_is_not_moved_aside() {
    let project = Project::new();
    let Some(_disk) = Disk::mount(project.path("disk")) else { return };
    fs::create_dir(project.path("disk/checkpoints")).expect("there is room");
    let said = refused_unread(&project, 2, &["--config", "run.toml", "--output", "disk", "--resume", "never"]);
    assert!(said.contains("`disk` cannot be moved aside: a disk is mounted there"), "{said}");
    assert!(said.contains("hint: move away what lies in it, or name a folder on that disk"), "{said}");
}

#[test]
fn a_disk_that_is_read_only_is_refused_before_anything_is_read() {
    let project = Project::new();
    let Some(disk) = Disk::mount(project.path("disk")) else { return };
    disk.make_read_only();
    let said = refused_unread(&project, 7, &[&RUN[..], &["checkpoint.every_steps=100"]].concat());
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(said.contains("hint: choose a folder that can be written with `--output`"), "{said}");
}

/// What is written to the place of a disk that is gone fills another one, and nobody finds it when the disk is back.
#[test]
fn a_disk_that_is_unmounted_ends_the_run_and_nothing_is_written_in_its_place() {
    let project = Project::new();
    let Some(disk) = Disk::mount(project.path("disk")) else { return };
    let running =
        project.start(&[&RUN[..], &["checkpoint.every_steps=100", "--set", "checkpoint.retry_minutes=0"]].concat());
    running.wait_for_words("step-000100");
    disk.unmount();
    let (code, said) = running.end();
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("disk/run") && said.contains("another disk is in its place"), "{said}");
    assert_eq!(fs::read_dir(project.path("disk")).expect("the folder is there").count(), 0, "{said}");
}

/// The system would end the process by a signal that nobody hears of, as soon as it keeps room for a checkpoint.
#[test]
fn a_limit_on_the_size_of_files_ends_a_run_with_the_file_that_does_not_fit() {
    // More than the configuration and the logs take, and less than the tensors of a checkpoint.
    const BLOCKS: u32 = 100;
    let project = Project::new();
    let args = ["--config", "run.toml", "--set", "samples.prompts=[]"];
    let output = project.command_with_small_files(BLOCKS, &args).output().expect("a shell is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{:?}: {said}", output.status);
    assert!(said.contains("error: ") && said.contains("step-000002/tensors.safetensors`"), "{said}");
    assert!(said.contains("hint: ") && said.contains("`ulimit -f unlimited`"), "{said}");
    let run = project.path("outputs/run");
    let record = fs::read_to_string(run.join("run.json")).expect("it is small");
    assert!(record.contains("\"failed\""), "{record}");
    assert!(!run.join(".reserve").exists() && !run.join("checkpoints/step-000002").exists(), "{said}");
    // Nothing half-written stands in the way of the next.
    let (_, said) = project.expect(0, &args);
    assert!(is_whole(&run.join("run.safetensors")), "{said}");
    let one_more = project.command_with_small_files(BLOCKS, &["check", "run.toml"]).output().expect("a shell is there");
    assert_eq!(one_more.status.code(), Some(0), "what writes no large file is not in its way");
}
