//! Every file call fails, once or for good, with the errors that disks really give.

use std::path::Path;

use sdtrain_checkpoint::vfs::{CrashVfs, FaultVfs, RealVfs, Repeat, Vfs};
use sdtrain_checkpoint::{Error, ManifestInfo, latest_valid_with};

use crate::run::{info, name, newest, save, save_as};

/// Linux: I/O error, no space, read-only, stale handle of a network disk, quota, too many open files.
const ERRORS: [i32; 6] = [5, 28, 30, 116, 122, 24];

fn parent() -> &'static Path {
    Path::new("checkpoints")
}

#[test]
fn a_failing_call_leaves_the_checkpoints_there_were() {
    let fresh = || {
        let disk = CrashVfs::new();
        save(&disk, parent(), 100).unwrap();
        save(&disk, parent(), 200).unwrap();
        disk
    };
    let counting = FaultVfs::counting(fresh());
    save(&counting, parent(), 300).unwrap();
    let calls = counting.calls();
    assert!(calls > 30, "only {calls} calls: is all of it going through the trait?");
    for error in ERRORS {
        for repeat in [Repeat::Once, Repeat::Always] {
            for call in 1..=calls {
                let what = format!("error {error} at call {call} of {calls}, {repeat:?}");
                let disk = fresh();
                let vfs = FaultVfs::new(disk.clone(), call, error, repeat);
                let saved = save(&vfs, parent(), 300);
                if let Err(failed) = &saved {
                    let message = failed.to_string();
                    assert!(message.contains("checkpoints"), "{what}: no path in `{message}`");
                    assert!(
                        message.contains(&std::io::Error::from_raw_os_error(error).to_string()),
                        "{what}: {message}"
                    );
                }
                if repeat == Repeat::Once && !disk.exists(&parent().join(name(300))).unwrap() {
                    let entries = disk.list(parent()).unwrap();
                    let left = entries.iter().find(|entry| entry.name.starts_with(".tmp-step"));
                    assert!(left.is_none(), "{what}: the attempt was not cleared away");
                }
                let found = newest(&disk, parent(), &what);
                match saved {
                    Ok(_) => assert_eq!(found, Some(300), "{what}"),
                    Err(_) => assert!(found >= Some(200), "{what}: found {found:?}"),
                }
            }
        }
    }
}

#[test]
fn a_failing_call_on_the_real_disk_leaves_the_checkpoints_there_were() {
    let fresh = || {
        let folder = tempfile::tempdir().unwrap();
        save(&RealVfs, folder.path(), 100).unwrap();
        folder
    };
    let counted = fresh();
    let counting = FaultVfs::counting(RealVfs);
    save(&counting, counted.path(), 300).unwrap();
    for call in 1..=counting.calls() {
        let folder = fresh();
        let saved = save(&FaultVfs::new(RealVfs, call, 28, Repeat::Once), folder.path(), 300);
        let found = newest(&RealVfs, folder.path(), &format!("call {call}"));
        assert!(found == Some(300) || saved.is_err() && found == Some(100), "call {call}: {found:?}");
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let mut fitted = false;
    for room in (0..4000).step_by(13) {
        let disk = CrashVfs::new();
        save(&disk, parent(), 100).unwrap();
        let saved = save(&FaultVfs::with_room(disk.clone(), room), parent(), 300);
        match &saved {
            Ok(_) => fitted = true,
            Err(error) => {
                assert!(!fitted, "with {room} bytes it failed, though less was enough");
                assert!(error.hint().unwrap().starts_with("free some space"), "{error}");
                assert!(matches!(error, Error::Storage { .. }));
            }
        }
        let found = newest(&disk, parent(), &format!("{room} bytes of room"));
        let expected = if saved.is_ok() { Some(300) } else { Some(100) };
        // With room for the checkpoint but not for `latest`, it is there all the same.
        assert!(found == expected || found == Some(300), "{room} bytes of room: {found:?}");
    }
    assert!(fitted, "more room is needed for this test");
}

#[test]
fn a_read_that_fails_does_not_make_an_older_checkpoint_the_newest() {
    let fresh = || {
        let disk = CrashVfs::new();
        save(&disk, parent(), 100).unwrap();
        save(&disk, parent(), 200).unwrap();
        disk
    };
    let counting = FaultVfs::counting(fresh());
    latest_valid_with(&counting, parent()).unwrap();
    for error in ERRORS {
        for repeat in [Repeat::Once, Repeat::Always] {
            for call in 1..=counting.calls() {
                let what = format!("error {error} at call {call}, {repeat:?}");
                let disk = fresh();
                match latest_valid_with(&FaultVfs::new(disk.clone(), call, error, repeat), parent()) {
                    Ok(found) => assert_eq!(found.unwrap().1.info.step, 200, "{what}"),
                    // With every later read failing there is nothing to go on with; that is said and not called a fresh start.
                    Err(failed) => assert!(failed.to_string().contains("checkpoints"), "{what}: {failed}"),
                }
                assert_eq!(newest(&disk, parent(), &what), Some(200), "{what}");
            }
        }
    }
}

#[test]
fn a_read_that_fails_while_a_checkpoint_is_replaced_costs_neither_of_the_two() {
    let other = ManifestInfo { threads: 7, ..info(200) };
    // Killed after the new one has its name and before the old one is gone.
    let before = || {
        let disk = CrashVfs::new();
        save(&disk, parent(), 100).unwrap();
        save(&disk, parent(), 200).unwrap();
        for call in 1.. {
            let attempt = CrashVfs::new();
            for step in [100, 200] {
                save(&attempt, parent(), step).unwrap();
            }
            attempt.cut_power_at(call);
            let _ = save_as(&attempt, parent(), 200, &other);
            attempt.cut_power_at(u64::MAX);
            let has = |name: &str| attempt.exists(&parent().join(name)).unwrap();
            if has(".replaced-step-000200") && has("step-000200") {
                return attempt;
            }
        }
        unreachable!("a checkpoint is replaced in two steps")
    };
    let counting = FaultVfs::counting(before());
    latest_valid_with(&counting, parent()).unwrap();
    for call in 1..=counting.calls() {
        let disk = before();
        let _ = latest_valid_with(&FaultVfs::new(disk.clone(), call, 5, Repeat::Once), parent());
        let found = latest_valid_with(&disk, parent()).unwrap().unwrap();
        assert_eq!((found.1.info.step, found.1.info.threads), (200, 7), "call {call}");
    }
}
