//! One writer a folder.

mod heartbeat;
mod owner;

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sdtrain_files::{is_of_this_machine, is_same_file};

use self::heartbeat::{Heartbeat, Pace, living_elsewhere};
use self::owner::Owner;
use crate::error::Context;
use crate::publish::create_folders;
use crate::seeded_bugs::{Bug, seeded};
use crate::vfs::RealVfs;
use crate::{Error, Result};

/// Name of the lock in the folder it guards.
const LOCK_NAME: &str = ".lock";

/// How often a lock is asked for that others may only be looking at, and how long between; also, how often a folder that is moved aside
/// meanwhile is asked for.
const ATTEMPTS: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(10);

/// Holds a folder for this process; dropping it, or the end of the process in any way, gives it free.
///
/// Between the processes of a machine the kernel decides (`flock`). On a file system that other machines may share it need not reach them
/// (NFS with `local_lock`, Lustre with `localflock`), nor containers that mounted it each for itself; there the file of the lock is also
/// written over with a count every two seconds, and who finds a name in it watches whether the count moves: 7 seconds decide, by no clock
/// but its own.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    // Ends first: while the lock still lasts.
    heartbeat: Option<Heartbeat>,
    file: File,
}

impl FolderLock {
    /// Takes the folder, making it where it does not exist. [`Error::Locked`] where another process has it: at once on this machine, after
    /// some seconds where it may be on another one.
    pub fn acquire(folder: &Path) -> Result<FolderLock> {
        FolderLock::acquire_as(folder, &Owner::this(), is_of_this_machine, Pace::USUAL)
    }

    fn acquire_as(folder: &Path, owner: &Owner, is_local: fn(&File) -> bool, pace: Pace) -> Result<FolderLock> {
        for _ in 0..ATTEMPTS {
            let lock = FolderLock::acquire_once(folder, owner, is_local, pace)?;
            // Whoever had it may have moved the folder aside before he gave it free: what was locked then guards another.
            if lock.is_in_place()? {
                return Ok(lock);
            }
        }
        let moves = std::io::Error::other("another file has the name each time");
        Err(Error::storage("lock", &folder.join(LOCK_NAME), moves))
    }

    fn acquire_once(folder: &Path, owner: &Owner, is_local: fn(&File) -> bool, pace: Pace) -> Result<FolderLock> {
        create_folders(&RealVfs, folder)?;
        let path = folder.join(LOCK_NAME);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).context("open", &path)?;
        let mut attempts = 1;
        let taken = loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if attempts < ATTEMPTS => {
                    attempts += 1;
                    thread::sleep(BETWEEN);
                }
                taken => break taken,
            }
        };
        match taken {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) if seeded(Bug::NoLock) => (),
            Err(TryLockError::WouldBlock) => return Err(locked(folder, &mut file)),
            Err(TryLockError::Error(error)) => return Err(Error::storage("lock", &path, error)),
        }
        let heartbeat = match is_local(&file) {
            true => {
                // Who has it, for the message that another process prints.
                let _ = file.set_len(0).and_then(|()| file.write_all(owner.to_text().as_bytes()));
                None
            }
            false => Some(Heartbeat::start(folder, &path, &file, owner, pace)?),
        };
        Ok(FolderLock { folder: folder.to_owned(), heartbeat, file })
    }

    /// [`Error::Locked`] where another process has the folder, which is left as it is: for who takes it later, and has much to do before.
    ///
    /// Whoever takes the folder at this very moment is not disturbed: the lock is held for no longer than [`FolderLock::acquire`] waits.
    pub fn look(folder: &Path) -> Result<()> {
        FolderLock::look_as(folder, is_of_this_machine, Pace::USUAL)
    }

    fn look_as(folder: &Path, is_local: fn(&File) -> bool, pace: Pace) -> Result<()> {
        let path = folder.join(LOCK_NAME);
        // Nobody has a folder without this file; and one that cannot be opened or read says so when the folder is taken.
        let Ok(mut file) = File::open(&path) else { return Ok(()) };
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            return Err(locked(folder, &mut file));
        }
        let _ = file.unlock();
        match is_local(&file) {
            true => Ok(()),
            false => match living_elsewhere(&path, pace) {
                Ok(Some(owner)) => Err(Error::Locked { folder: folder.to_owned(), owner: owner.in_words() }),
                _ => Ok(()),
            },
        }
    }

    /// The folder it guards.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the folder is still the one that was taken, and still this process': not where it was deleted, moved, replaced or unmounted
    /// since, nor where another machine took it over while this process stood still.
    ///
    /// # Errors
    /// Where the disk does not tell.
    pub fn is_in_place(&self) -> Result<bool> {
        let path = self.folder.join(LOCK_NAME);
        let is_there = is_same_file(&path, &self.file).context("look at", &path)?;
        Ok(is_there && !self.heartbeat.as_ref().is_some_and(Heartbeat::is_lost))
    }
}

fn locked(folder: &Path, file: &mut File) -> Error {
    let mut owner = String::new();
    // Only for the message; a lock that cannot be read is a lock all the same.
    let _ = Read::by_ref(file).take(1024).read_to_string(&mut owner);
    Error::Locked { folder: folder.to_owned(), owner: Owner::parse(&owner).in_words() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn acquire_local(folder: &Path) -> FolderLock {
        FolderLock::acquire_as(folder, &Owner::this(), |_| true, Pace::QUICK).unwrap()
    }

    #[test]
    fn the_lock_says_who_holds_it_where_and_since_when() {
        let folder = tempfile::tempdir().unwrap();
        let _lock = acquire_local(folder.path());
        let owner = Owner::parse(&fs::read_to_string(folder.path().join(LOCK_NAME)).unwrap());
        assert_eq!(owner, Owner::this());
        assert!(!owner.host.is_empty() && owner.boot.len() == 36, "{owner:?}");
        assert!(owner.started.parse::<u64>().unwrap() > 0, "{owner:?}");
    }

    #[test]
    fn a_lock_that_a_dead_process_left_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let dead = Owner { process: "1".to_owned(), host: "elsewhere".to_owned(), ..Owner::this() };
        fs::write(folder.path().join(LOCK_NAME), dead.to_text() + "and more than the next one writes, by far\n")
            .unwrap();
        let _lock = acquire_local(folder.path());
        assert_eq!(fs::read_to_string(folder.path().join(LOCK_NAME)).unwrap(), Owner::this().to_text());
    }

    #[test]
    fn a_second_writer_is_refused_and_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        assert_eq!(lock.folder(), folder.path());
        let error = FolderLock::acquire(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }));
        assert!(error.to_string().ends_with(&format!("is in use by another run (process {})", std::process::id())));
        assert!(error.hint().is_some());
        drop(lock);
        FolderLock::acquire(folder.path()).unwrap();
    }

    /// ms-swift#6695: whoever deletes the file of a lock that is held lets the next one lock another file of that name.
    #[test]
    fn ms_swift_6695_the_file_of_a_lock_stays_whoever_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let file = || fs::metadata(folder.path().join(LOCK_NAME)).unwrap().ino();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let first = file();
        FolderLock::acquire(folder.path()).unwrap_err();
        FolderLock::look(folder.path()).unwrap_err();
        assert_eq!(file(), first, "one that was refused leaves it alone");
        drop(lock);
        assert_eq!(file(), first, "and so does the one that had it");
        drop(FolderLock::acquire(folder.path()).unwrap());
        assert_eq!(file(), first);
    }

    #[test]
    fn a_look_tells_of_a_writer_and_changes_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("run");
        FolderLock::look(&folder).unwrap();
        assert!(!folder.exists());
        let lock = FolderLock::acquire(&folder).unwrap();
        let error = FolderLock::look(&folder).unwrap_err();
        assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
        drop(lock);
        FolderLock::look(&folder).unwrap();
    }

    #[test]
    fn who_only_looks_keeps_nobody_from_taking_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        drop(FolderLock::acquire(folder.path()).unwrap());
        let looking = File::open(folder.path().join(LOCK_NAME)).unwrap();
        looking.try_lock_shared().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(BETWEEN / 2);
                drop(looking);
            });
            FolderLock::acquire(folder.path()).unwrap();
        });
    }

    /// How often this process has the file of `folder`'s lock open.
    fn open_locks(folder: &Path) -> usize {
        let path = folder.join(LOCK_NAME);
        let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
        files.filter(|file| fs::read_link(file.path()).is_ok_and(|target| target == path)).count()
    }

    #[test]
    fn a_folder_that_is_moved_aside_while_somebody_waits_for_it_is_not_taken_for_the_one_in_its_place() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, elsewhere) =
            (scratch.path().canonicalize().unwrap().join("run"), scratch.path().join("elsewhere"));
        let first = acquire_local(&folder);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                loop {
                    match FolderLock::acquire_as(&folder, &Owner::this(), |_| true, Pace::QUICK) {
                        // A busy machine lets it wait in vain.
                        Err(Error::Locked { .. }) => (),
                        taken => break taken.unwrap(),
                    }
                }
            });
            wait_until(|| open_locks(&folder) == 2);
            fs::rename(&folder, &elsewhere).unwrap();
            drop(first);
            let second = waiting.join().unwrap();
            assert!(second.is_in_place().unwrap());
            assert!(FolderLock::acquire(&folder).is_err(), "it has what is there now");
        });
    }

    /// As on a file system that other machines share, where their locks are not seen.
    fn acquire_shared(folder: &Path, owner: &Owner) -> Result<FolderLock> {
        FolderLock::acquire_as(folder, owner, |_| false, Pace::QUICK)
    }

    fn of_another_machine() -> Owner {
        Owner { host: "node3".to_owned(), boot: "another".to_owned(), ..Owner::this() }
    }

    /// Waits until something is so, for as long as a busy machine may take.
    fn wait_until(is_so: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(60), "it never comes");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_holder_on_another_machine_whose_count_moves_is_not_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_NAME);
        fs::write(&path, of_another_machine().at_beat(0).to_text()).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let ended = AtomicBool::new(false);
        // It is watched for as long as a busy machine may need for one beat.
        let pace = Pace { watch: Duration::from_secs(30), ..Pace::QUICK };
        let (looked, taken) = thread::scope(|scope| {
            scope.spawn(|| {
                for beat in (1..).take_while(|_| !ended.load(Ordering::Relaxed)) {
                    heartbeat::write(&file, &of_another_machine(), beat).unwrap();
                    thread::sleep(pace.beat);
                }
            });
            let looked = FolderLock::look_as(folder.path(), |_| false, pace);
            let taken = FolderLock::acquire_as(folder.path(), &Owner::this(), |_| false, pace);
            ended.store(true, Ordering::Relaxed);
            (looked, taken.map(|_| ()))
        });
        let expected = format!("is in use by another run (process {} on node3)", std::process::id());
        for error in [looked.unwrap_err(), taken.unwrap_err()] {
            assert!(error.to_string().ends_with(&expected), "{error}");
        }
        assert!(Owner::parse(&fs::read_to_string(&path).unwrap()).is_same_process(&of_another_machine()));
    }

    #[test]
    fn a_holder_on_another_machine_whose_count_stands_still_is_dead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_NAME);
        fs::write(&path, of_another_machine().at_beat(7).to_text()).unwrap();
        FolderLock::look_as(folder.path(), |_| false, Pace::QUICK).unwrap();
        let lock = acquire_shared(folder.path(), &Owner::this()).unwrap();
        let read = || Owner::parse(&fs::read_to_string(&path).unwrap());
        assert!(read().is_same_process(&Owner::this()) && lock.is_in_place().unwrap());
        let before = read().beat;
        wait_until(|| read().beat != before);
        drop(lock);
        assert_eq!(fs::read_to_string(&path).unwrap(), "", "given free in so many words: nobody has to watch");
    }

    #[test]
    fn who_was_taken_for_dead_notices() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_NAME);
        let lock = acquire_shared(folder.path(), &Owner::this()).unwrap();
        assert!(lock.is_in_place().unwrap());
        let other = of_another_machine().at_beat(0).to_text();
        // One that falls between a look and a beat is written over.
        wait_until(|| {
            fs::write(&path, &other).unwrap();
            !lock.is_in_place().unwrap()
        });
        fs::write(&path, &other).unwrap();
        drop(lock);
        assert_eq!(fs::read_to_string(&path).unwrap(), other, "and leaves the other's name alone");
    }

    #[test]
    fn a_lock_that_went_away_with_its_folder_does_not_disturb_the_one_in_its_place() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, elsewhere) = (scratch.path().join("run"), scratch.path().join("elsewhere"));
        let first = acquire_shared(&folder, &Owner::this()).unwrap();
        fs::rename(&folder, &elsewhere).unwrap();
        let second = acquire_shared(&folder, &Owner::this()).unwrap();
        drop(first);
        assert_eq!(fs::read_to_string(elsewhere.join(LOCK_NAME)).unwrap(), "");
        let read = || Owner::parse(&fs::read_to_string(folder.join(LOCK_NAME)).unwrap());
        let before = read();
        assert!(before.is_same_process(&Owner::this()));
        wait_until(|| read().beat != before.beat);
        assert!(second.is_in_place().unwrap());
    }

    #[test]
    fn a_folder_that_went_away_is_not_in_place() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, elsewhere) = (scratch.path().join("run"), scratch.path().join("elsewhere"));
        let lock = FolderLock::acquire(&folder).unwrap();
        assert!(lock.is_in_place().unwrap());
        fs::rename(&folder, &elsewhere).unwrap();
        assert!(!lock.is_in_place().unwrap());
        let again = FolderLock::acquire(&folder).unwrap();
        assert!(!lock.is_in_place().unwrap() && again.is_in_place().unwrap());
        fs::remove_dir_all(&folder).unwrap();
        assert!(!again.is_in_place().unwrap());
    }

    #[test]
    fn makes_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        FolderLock::acquire(&folder.path().join("a/b")).unwrap();
        assert!(folder.path().join("a/b").is_dir());
    }
}
