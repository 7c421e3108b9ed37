//! Publishing, reading and pruning on the real disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use sdtrain_checkpoint::vfs::RealVfs;
use sdtrain_checkpoint::{
    Error, FolderLock, LATEST_NAME, MANIFEST_NAME, ManifestInfo, latest_valid, probe, probe_ahead, prune, publish,
    recover, survey, verify,
};

use crate::run::{info, name};

fn save(parent: &Path, step: u64, files: &[(&str, &[u8])]) -> Result<std::path::PathBuf, Error> {
    publish(parent, &name(step), info(step), &mut |folder| {
        for (name, content) in files {
            fs::write(folder.join(name), content)?;
        }
        Ok(())
    })
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_published_folder_is_found_with_everything_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let parent = folder.path().join("checkpoints");
    let path = save(&parent, 250, &[("a.bin", b"123"), ("empty", b"")]).unwrap();
    assert_eq!(path, parent.join("step-000250"));
    assert_eq!(names(&path), [MANIFEST_NAME, "a.bin", "empty"]);
    assert_eq!(names(&parent), [LATEST_NAME, "step-000250"]);
    assert_eq!(fs::read_to_string(parent.join(LATEST_NAME)).unwrap(), "step-000250\n");
    let (found, manifest) = latest_valid(&parent).unwrap().unwrap();
    assert_eq!(found, path);
    assert_eq!(manifest.info, info(250));
    let files: Vec<(&str, u64)> = manifest.files.iter().map(|f| (f.name.as_str(), f.length)).collect();
    assert_eq!(files, [("a.bin", 3), ("empty", 0)]);
    assert_eq!(manifest.files[0].blake3, blake3::hash(b"123").to_hex().to_string());
}

/// One thread forces it to disk while another reads it back.
#[test]
fn a_large_file_is_published_with_the_digest_of_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..9_u32 << 20).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let path = save(folder.path(), 100, &[("large", &large[..]), ("small", b"123")]).unwrap();
    let manifest = verify(&path).unwrap();
    let files: Vec<(&str, u64)> = manifest.files.iter().map(|f| (f.name.as_str(), f.length)).collect();
    assert_eq!(files, [("large", 9 << 20), ("small", 3)]);
    assert_eq!(manifest.files[0].blake3, blake3::hash(&large).to_hex().to_string());
    assert!(fs::read(path.join("large")).unwrap() == large);
}

#[test]
fn the_newest_is_the_one_with_the_highest_step_and_not_the_last_written() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 1_000_000, &[("a", b"1")]).unwrap();
    save(folder.path(), 999_999, &[("a", b"2")]).unwrap();
    assert_eq!(latest_valid(folder.path()).unwrap().unwrap().1.info.step, 1_000_000);
}

#[test]
fn any_damage_makes_the_older_one_be_used_and_is_reported() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("`a` has 2 bytes instead of 3", |newest| fs::write(newest.join("a"), b"12").unwrap()),
        ("the content of `a` is not what was written", |newest| fs::write(newest.join("a"), b"124").unwrap()),
        ("`a` cannot be read", |newest| fs::remove_file(newest.join("a")).unwrap()),
        ("it has no MANIFEST.json", |newest| fs::remove_file(newest.join(MANIFEST_NAME)).unwrap()),
        ("its MANIFEST.json cannot be read", |newest| fs::write(newest.join(MANIFEST_NAME), b"{").unwrap()),
    ];
    for (reason, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 100, &[("a", b"123")]).unwrap();
        let newest = save(folder.path(), 200, &[("a", b"123")]).unwrap();
        damage(&newest);
        assert_eq!(latest_valid(folder.path()).unwrap().unwrap().1.info.step, 100);
        let rejected = survey(&RealVfs, folder.path()).unwrap().rejected;
        assert_eq!(rejected[0].0, newest);
        assert!(rejected[0].1.starts_with(reason), "{} is not {reason}", rejected[0].1);
        assert!(verify(&newest).unwrap_err().to_string().contains(reason));
        assert!(newest.exists(), "nothing deletes a damaged checkpoint");
        let latest = fs::read_to_string(folder.path().join(LATEST_NAME)).unwrap();
        assert_eq!(latest, "step-000100\n", "`latest` names the one that is continued from");
    }
}

#[test]
fn a_writer_killed_before_latest_does_not_leave_it_behind() {
    let folder = tempfile::tempdir().unwrap();
    let latest = folder.path().join(LATEST_NAME);
    save(folder.path(), 100, &[("a", b"123")]).unwrap();
    let before = fs::read(&latest).unwrap();
    save(folder.path(), 200, &[("a", b"123")]).unwrap();
    for left in [Some(&before[..]), Some(b""), Some(&[0xff; 300]), None] {
        match left {
            Some(content) => fs::write(&latest, content).unwrap(),
            None => fs::remove_file(&latest).unwrap(),
        }
        assert_eq!(latest_valid(folder.path()).unwrap().unwrap().1.info.step, 200);
        assert_eq!(fs::read_to_string(&latest).unwrap(), "step-000200\n");
    }
}

#[test]
fn without_checkpoints_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(latest_valid(folder.path()).unwrap(), None);
    assert_eq!(latest_valid(&folder.path().join("not/there")).unwrap(), None);
}

#[test]
fn a_producer_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 100, &[("a", b"123")]).unwrap();
    let failed = publish(folder.path(), "step-000200", info(200), &mut |folder| {
        fs::write(folder.join("a"), b"half")?;
        Err("tensor `x` holds NaN".into())
    });
    let message = failed.unwrap_err().to_string();
    assert_eq!(message, "cannot write the content of checkpoint `step-000200`: tensor `x` holds NaN");
    assert_eq!(names(folder.path()), [LATEST_NAME, "step-000100"]);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["../out", "", ".hidden", LATEST_NAME, "a/b"] {
        let refused = publish(folder.path(), name, ManifestInfo::default(), &mut |_| Ok(()));
        assert!(matches!(refused, Err(Error::Name { .. })), "{name:?}");
    }
    let nested = publish(folder.path(), "step-000001", info(1), &mut |folder| Ok(fs::create_dir(folder.join("in"))?));
    assert!(matches!(nested, Err(Error::Name { .. })));
    assert!(names(folder.path()).is_empty());
}

#[test]
fn pruning_keeps_the_newest_and_what_is_not_ours() {
    let folder = tempfile::tempdir().unwrap();
    for step in [100, 200, 300, 400] {
        save(folder.path(), step, &[("a", b"123")]).unwrap();
    }
    fs::create_dir(folder.path().join("step-000001")).unwrap();
    fs::write(folder.path().join("step-000001/mine.txt"), b"keep").unwrap();
    let pruned = prune(folder.path(), 400, 2).unwrap();
    assert_eq!(pruned.removed, [folder.path().join("step-000100"), folder.path().join("step-000200")]);
    assert!(pruned.failed.is_empty());
    assert_eq!(names(folder.path()), [LATEST_NAME, "step-000001", "step-000300", "step-000400"]);
}

#[test]
fn one_that_cannot_be_deleted_is_named_and_the_others_go() {
    let folder = tempfile::tempdir().unwrap();
    for step in [100, 200, 300] {
        save(folder.path(), step, &[("a", b"123")]).unwrap();
    }
    // In the place of the name that it gets before it goes.
    fs::write(folder.path().join(".trash-step-000100"), b"a file").unwrap();
    let pruned = prune(folder.path(), 300, 1).unwrap();
    assert_eq!(pruned.removed, [folder.path().join("step-000200")]);
    let [(left, reason)] = &pruned.failed[..] else { panic!("{pruned:?}") };
    assert_eq!(*left, folder.path().join("step-000100"));
    assert!(reason.contains(".trash-step-000100"), "{reason}");
    assert!(latest_valid(folder.path()).unwrap().unwrap().1.info.step == 300 && verify(left).is_ok());
}

#[test]
fn a_truncated_checkpoint_does_not_count_towards_those_kept() {
    let folder = tempfile::tempdir().unwrap();
    for step in [100, 200, 300] {
        save(folder.path(), step, &[("a", b"123")]).unwrap();
    }
    fs::write(folder.path().join("step-000300/a"), b"1").unwrap();
    prune(folder.path(), 300, 1).unwrap();
    assert_eq!(names(folder.path()), [LATEST_NAME, "step-000200", "step-000300"]);
    assert_eq!(latest_valid(folder.path()).unwrap().unwrap().1.info.step, 200);
}

#[test]
fn a_folder_that_cannot_be_written_is_found_by_probing() {
    let folder = tempfile::tempdir().unwrap();
    probe(&folder.path().join("a/b")).unwrap();
    assert!(names(&folder.path().join("a/b")).is_empty());
    fs::write(folder.path().join("file"), b"").unwrap();
    let error = probe(&folder.path().join("file")).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}

#[test]
fn probing_ahead_makes_nothing_and_finds_what_stands_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("outputs/run");
    for there in ["", "outputs/run/checkpoints"] {
        fs::create_dir_all(folder.path().join(there)).unwrap();
        probe_ahead(&run.join("checkpoints")).unwrap();
        assert_eq!(names(folder.path()), if there.is_empty() { vec![] } else { vec!["outputs"] });
        assert!(!run.exists() || names(&run.join("checkpoints")).is_empty());
    }
    let file = folder.path().join("file");
    fs::write(&file, b"taken").unwrap();
    for below in [file.clone(), file.join("run"), file.join("run/checkpoints")] {
        let error = probe_ahead(&below).unwrap_err();
        assert!(error.storage_error().is_some() && error.to_string().contains("file"), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"taken");
}

/// Not a test: what the next one runs as a second process, which holds the folder until its input ends.
#[test]
fn second_process() {
    if let Some(folder) = std::env::var_os("CHECKPOINT_TEST_LOCK") {
        let _lock = FolderLock::acquire(Path::new(&folder)).unwrap();
        println!("holding");
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
        // Killed at the latest here: a lock must not outlive its process.
        std::process::abort();
    }
}

/// deepinv#525, CellBender#241, DeepTab#411, torchtune#481, metatrain#448, pangaea-bench#104: two runs write into one folder.
/// simpleflock#9, where the file of a lock is deleted while it is held, is `ms_swift_6695_…` in `src/lock.rs`.
#[test]
fn another_process_is_kept_out_and_its_death_gives_the_folder_free() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "disk::second_process", "--nocapture"])
        .env("CHECKPOINT_TEST_LOCK", folder.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(other.stdout.take().unwrap());
    assert!(output.lines().map_while(Result::ok).any(|line| line.contains("holding")));
    let error = FolderLock::acquire(folder.path()).unwrap_err();
    assert!(error.to_string().contains(&format!("(process {})", other.id())), "{error}");
    other.kill().unwrap();
    other.wait().unwrap();
    FolderLock::acquire(folder.path()).unwrap();
}

#[test]
fn a_damaged_checkpoint_of_a_later_step_does_not_cost_those_that_are_written_now() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 100, &[("a", b"123")]).unwrap();
    let damaged = save(folder.path(), 300, &[("a", b"123")]).unwrap();
    fs::write(damaged.join("a"), b"124").unwrap();
    // The run falls back to 100, and comes to 200 before it comes to 300 again.
    save(folder.path(), 200, &[("a", b"123")]).unwrap();
    prune(folder.path(), 200, 1).unwrap();
    assert_eq!(latest_valid(folder.path()).unwrap().unwrap().1.info.step, 200);
    assert!(damaged.exists() && !folder.path().join("step-000100").exists());
}

#[test]
fn checkpoints_that_are_all_damaged_are_an_error_and_no_fresh_start() {
    let folder = tempfile::tempdir().unwrap();
    let only = save(folder.path(), 100, &[("a", b"123")]).unwrap();
    fs::write(only.join("a"), b"124").unwrap();
    let error = latest_valid(folder.path()).unwrap_err();
    assert!(matches!(error, Error::NoneWhole { count: 1, .. }));
    assert!(error.to_string().contains("step-000100`: the content of `a`"), "{error}");
    assert!(error.hint().unwrap().contains("--resume never"));
}

#[test]
fn checkpoints_that_are_gone_are_an_error_and_no_fresh_start() {
    let folder = tempfile::tempdir().unwrap();
    let only = save(folder.path(), 100, &[("a", b"123")]).unwrap();
    fs::rename(&only, folder.path().with_extension("elsewhere")).unwrap();
    let error = latest_valid(folder.path()).unwrap_err();
    assert!(error.to_string().contains("names `step-000100`, and there is no checkpoint"), "{error}");
    assert!(error.hint().unwrap().contains("--resume never"));
    fs::rename(folder.path().with_extension("elsewhere"), &only).unwrap();
    assert_eq!(latest_valid(folder.path()).unwrap().unwrap().0, only);
    fs::remove_dir_all(&only).unwrap();
    fs::remove_file(folder.path().join("latest")).unwrap();
    assert!(latest_valid(folder.path()).unwrap().is_none(), "whoever deletes both means it");
}

#[test]
fn folders_that_are_no_checkpoints_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    assert!(latest_valid(folder.path()).unwrap().is_none());
    save(folder.path(), 100, &[("a", b"123")]).unwrap();
    let survey = recover(folder.path()).unwrap();
    assert!(survey.newest.is_some() && survey.rejected.is_empty());
    // A copy under another name is one, as is what has lost its manifest.
    let named = folder.path().join("before the change");
    fs::rename(folder.path().join("step-000100"), &named).unwrap();
    fs::create_dir(folder.path().join("step-000200")).unwrap();
    let survey = recover(folder.path()).unwrap();
    assert_eq!((survey.newest.unwrap().0, survey.rejected.len()), (named, 1));
}

#[cfg(unix)]
#[test]
fn checkpoints_behind_symbolic_links_are_read_and_what_they_lead_to_is_never_emptied() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for step in [100, 200, 300] {
        let own = save(folder.path(), step, &[("a", b"123")]).unwrap();
        let there = elsewhere.path().join(own.file_name().unwrap());
        fs::create_dir(&there).unwrap();
        for file in fs::read_dir(&own).unwrap().map(|file| file.unwrap()) {
            fs::copy(file.path(), there.join(file.file_name())).unwrap();
        }
        fs::remove_dir_all(&own).unwrap();
        std::os::unix::fs::symlink(&there, &own).unwrap();
    }
    let (newest, manifest) = latest_valid(folder.path()).unwrap().unwrap();
    assert_eq!((newest, manifest.info.step), (folder.path().join("step-000300"), 300));
    // Written once more with another content, and deleted.
    save(folder.path(), 300, &[("a", b"124")]).unwrap();
    assert_eq!(prune(folder.path(), 300, 1).unwrap().removed.len(), 2);
    // What a killed writer left is a link as well, to a folder and to nothing.
    for (name, to) in [(".trash-step-000100", "step-000100"), (".tmp-step-000400", "nowhere")] {
        std::os::unix::fs::symlink(elsewhere.path().join(to), folder.path().join(name)).unwrap();
    }
    assert_eq!(latest_valid(folder.path()).unwrap().unwrap().1.info.step, 300);
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for step in [100, 200, 300] {
        let there = elsewhere.path().join(format!("step-{step:06}"));
        assert_eq!(fs::read(there.join("a")).unwrap(), b"123", "{step}");
    }
}
