//! The output folder is deleted, moved or replaced while the run goes on.

use crate::failures::{config, run};
use sdtrain_checkpoint::{FolderLock, verify};
use sdtrain_trainer::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

const STEPS: u64 = 60;
const EVERY_STEP: &str = "[checkpoint]\nevery_steps = 1\nkeep_last = 99\n";

/// Does `work` once the run in `output` has saved its third step.
fn after_three_steps(output: &Path, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let saved = output.join("checkpoints/step-000003");
    spawn(move || {
        while !saved.exists() {
            sleep(Duration::from_millis(1));
        }
        work();
    })
}

#[test]
fn a_folder_that_is_deleted_or_moved_in_the_middle_is_made_anew_with_a_whole_checkpoint_and_the_product() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(&folder, STEPS, EVERY_STEP);
    let straight = folder.path().join("straight");
    run(&config, &straight).unwrap_or_else(|error| panic!("{error}"));
    for is_deleted in [true, false] {
        let output = folder.path().join(format!("deleted-{is_deleted}"));
        let away = folder.path().join(format!("away-{is_deleted}"));
        let (from, to) = (output.clone(), away.clone());
        let vanishing = after_three_steps(&output, move || {
            // In one step: what is written meanwhile would keep a folder from being deleted.
            fs::rename(from, &to).expect("the same disk");
            if is_deleted {
                fs::remove_dir_all(to).expect("it is there");
            }
        });
        run(&config, &output).unwrap_or_else(|error| panic!("deleted {is_deleted}: {error}"));
        vanishing.join().expect("it ends");
        assert_eq!(away.join("config.toml").is_file(), !is_deleted);
        verify(&output.join(format!("checkpoints/step-{STEPS:06}"))).expect("whole");
        let content = |folder: &Path, name: &str| {
            fs::read(folder.join(name)).unwrap_or_else(|error| panic!("deleted {is_deleted}: {name}: {error}"))
        };
        for name in ["run.safetensors", "config.toml"] {
            assert!(content(&output, name) == content(&straight, name), "deleted {is_deleted}: {name}");
        }
        let metrics = String::from_utf8(content(&output, "metrics.jsonl")).expect("JSON");
        assert_eq!(metrics.lines().count() as u64, STEPS, "those of before are taken along: {metrics}");
        assert!(output.join(".lock").is_file());
        let record: serde_json::Value = serde_json::from_slice(&content(&output, "run.json")).expect("JSON");
        assert_eq!(record["outcome"], "finished");
        // Whoever moved it may go on with it.
        FolderLock::acquire(&away).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// What the run finds in the place of its folder after its third step: its error. `prepare` makes it.
fn with_another_in_its_place<T>(prepare: impl FnOnce(&Path) -> T) -> (tempfile::TempDir, T, Error) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(&folder, STEPS, EVERY_STEP);
    let [own, other, link, output] = ["own", "other", "link", "output"].map(|name| folder.path().join(name));
    fs::create_dir(&own).expect("there is room");
    fs::create_dir(&other).expect("there is room");
    let prepared = prepare(&other);
    // A link is replaced in one step: the run finds one of the two at every moment.
    symlink(&own, &output).expect("there is room");
    symlink(&other, &link).expect("there is room");
    let to = output.clone();
    let replacing = after_three_steps(&own, move || fs::rename(link, to).expect("the same disk"));
    let error = run(&config, &output).expect_err("the folder is another's");
    replacing.join().expect("it ends");
    (folder, prepared, error)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("readable"));
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_that_another_run_has_by_now_is_left_to_it() {
    let lock = |other: &Path| FolderLock::acquire(other).expect("nobody has it");
    let (folder, _lock, error) = with_another_in_its_place(lock);
    assert!(matches!(error, Error::Checkpoint(sdtrain_checkpoint::Error::Locked { .. })), "{error}");
    assert_eq!(names_in(&folder.path().join("other")), [".lock"]);
    assert!(folder.path().join("own/checkpoints/step-000003").is_dir(), "what it has saved stays");
}

#[test]
fn a_folder_that_another_run_had_since_is_left_as_it_is() {
    const RECORD: &str = "{\"run_id\": \"1-a\", \"outcome\": \"finished\"}";
    let write = |other: &Path| fs::write(other.join("run.json"), RECORD).expect("there is room");
    let (folder, (), error) = with_another_in_its_place(write);
    assert!(matches!(error, Error::TakenOver { .. }), "{error}");
    let other = folder.path().join("other");
    assert_eq!(names_in(&other), [".lock", "run.json"]);
    assert_eq!(fs::read_to_string(other.join("run.json")).expect("it is there"), RECORD);
}
