//! The power goes at every file call: whatever the disk kept, the newest acknowledged checkpoint is there.

use std::io::{self, Read, Write};
use std::path::Path;

use sdtrain_checkpoint::vfs::{CrashVfs, Entry, Survives, Vfs, VfsFile};
use sdtrain_checkpoint::{ManifestInfo, latest_valid_with, survey};

use crate::run::{info, newest, save, save_as};

const MIXTURES: u64 = 8;

fn parent() -> &'static Path {
    Path::new("outputs/run/checkpoints")
}

fn survivals() -> impl Iterator<Item = Survives> {
    Survives::CORNERS.into_iter().chain((0..MIXTURES).map(Survives::Mixture))
}

/// A disk that has lived through these saves.
fn disk_with(steps: &[u64]) -> CrashVfs {
    let vfs = CrashVfs::new();
    vfs.create_folder(Path::new("outputs")).unwrap();
    vfs.sync_folder(Path::new("")).unwrap();
    for &step in steps {
        save(&vfs, parent(), step).unwrap();
    }
    vfs
}

/// Cuts the power at every call of `work` and checks every disk it may leave with `check(disk, was acknowledged, words)`.
fn at_every_call(before: &[u64], work: impl Fn(&CrashVfs) -> bool, check: impl Fn(&CrashVfs, bool, &str)) -> u64 {
    for call in 1.. {
        let vfs = disk_with(before);
        vfs.cut_power_at(call);
        let acknowledged = work(&vfs);
        let is_whole = vfs.calls() < call;
        for survives in survivals() {
            let what = format!("power cut at call {call}, {survives:?} survives, after {before:?}");
            check(&vfs.after_power_cut(survives), acknowledged, &what);
        }
        if is_whole {
            return call - 1;
        }
    }
    unreachable!("every work ends")
}

#[test]
fn a_save_is_there_wholly_or_not_at_all() {
    for before in [&[][..], &[100], &[100, 200]] {
        let calls = at_every_call(
            before,
            |vfs| save(vfs, parent(), 300).is_ok(),
            |disk, acknowledged, what| {
                let found = newest(disk, parent(), what);
                match acknowledged {
                    true => assert_eq!(found, Some(300), "{what}"),
                    false => assert!(found >= before.last().copied(), "{what}: found {found:?}"),
                }
            },
        );
        assert!(calls > 30, "only {calls} calls: is all of it going through the trait?");
    }
}

#[test]
fn a_checkpoint_that_takes_the_place_of_another_never_leaves_none() {
    let other = ManifestInfo { threads: 7, ..info(200) };
    at_every_call(
        &[200],
        |vfs| save_as(vfs, parent(), 200, &other).is_ok(),
        |disk, acknowledged, what| {
            let found = latest_valid_with(disk, parent()).unwrap().unwrap_or_else(|| panic!("{what}: nothing left"));
            assert!(!acknowledged || found.1.info.threads == 7, "{what}");
            assert_eq!(newest(disk, parent(), what), Some(200));
        },
    );
}

#[test]
fn the_same_checkpoint_again_changes_nothing() {
    at_every_call(
        &[100, 200],
        |vfs| save(vfs, parent(), 200).is_ok(),
        |disk, _, what| assert_eq!(newest(disk, parent(), what), Some(200), "{what}"),
    );
}

#[test]
fn recovery_can_be_cut_off_too() {
    let other = ManifestInfo { threads: 7, ..info(200) };
    let calls_of_replacing = at_every_call(&[200], |vfs| save_as(vfs, parent(), 200, &other).is_ok(), |_, _, _| ());
    for call in 1..=calls_of_replacing {
        let vfs = disk_with(&[200]);
        vfs.cut_power_at(call);
        let _ = save_as(&vfs, parent(), 200, &other);
        for survives in Survives::CORNERS {
            for second in 1.. {
                let disk = vfs.after_power_cut(survives);
                disk.cut_power_at(second);
                let recovered = latest_valid_with(&disk, parent()).is_ok();
                let what = format!("cut at {call}, again at {second} of the recovery, {survives:?} survives");
                for survives in [Survives::Synced, Survives::NamesOnly] {
                    assert_eq!(newest(&disk.after_power_cut(survives), parent(), &what), Some(200), "{what}");
                }
                if recovered {
                    break;
                }
            }
        }
    }
}

/// The same disk, but nothing is forced to it.
struct WithoutSync(CrashVfs);

struct FileWithoutSync<'a>(Box<dyn VfsFile + 'a>);

impl Write for FileWithoutSync<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl VfsFile for FileWithoutSync<'_> {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Vfs for WithoutSync {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.0.create_folder(path)
    }
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn VfsFile + '_>> {
        Ok(Box::new(FileWithoutSync(self.0.create_file(path)?)))
    }
    fn sync_file(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.0.remove_folder(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.0.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn length(&self, path: &Path) -> io::Result<u64> {
        self.0.length(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + '_>> {
        self.0.open(path)
    }
}

#[test]
fn without_forcing_to_disk_the_simulated_power_cut_loses_checkpoints() {
    // The measure of this file: a writer that renames without syncing must be caught by it.
    let vfs = disk_with(&[100]);
    save(&WithoutSync(vfs.clone()), parent(), 200).unwrap();
    let half_written = vfs.after_power_cut(Survives::NamesOnly);
    assert!(!survey(&half_written, parent()).unwrap().rejected.is_empty());
    let lost = vfs.after_power_cut(Survives::Synced);
    assert_eq!(latest_valid_with(&lost, parent()).unwrap().unwrap().1.info.step, 100);
}

#[test]
fn a_folder_that_a_killed_run_made_is_forced_to_disk_by_the_next() {
    for call in 1..12 {
        let vfs = disk_with(&[]);
        vfs.cut_power_at(call);
        let _ = save(&vfs, parent(), 100);
        // Only the process was killed; the machine goes on.
        vfs.cut_power_at(u64::MAX);
        let _ = latest_valid_with(&vfs, parent()).unwrap();
        save(&vfs, parent(), 100).unwrap();
        let disk = vfs.after_power_cut(Survives::Synced);
        assert_eq!(newest(&disk, parent(), &format!("killed at call {call}")), Some(100));
    }
}
