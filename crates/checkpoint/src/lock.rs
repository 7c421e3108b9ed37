//! One writer a folder.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::Context;
use crate::publish::create_folders;
use crate::seeded_bugs::{Bug, seeded};
use crate::vfs::RealVfs;
use crate::{Error, Result};

/// Name of the lock in the folder it guards.
const LOCK_NAME: &str = ".lock";

/// How often a lock is asked for that others may only be looking at, and how long between.
const ATTEMPTS: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(10);

/// Holds a folder for this process; dropping it, or the end of the process in any way, gives it free.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    // Never read: the lock lasts as long as the file is open.
    _file: File,
}

impl FolderLock {
    /// Takes the folder, making it where it does not exist. [`Error::Locked`] at once where another process has it.
    pub fn acquire(folder: &Path) -> Result<FolderLock> {
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
        // Who has it, for the message that another process prints.
        let _ = file.set_len(0).and_then(|()| file.write_all(Owner::this().to_text().as_bytes()));
        Ok(FolderLock { folder: folder.to_owned(), _file: file })
    }

    /// [`Error::Locked`] where another process has the folder, which is left as it is: for who takes it later, and has much to do before.
    ///
    /// Whoever takes the folder at this very moment is not disturbed: looking lasts no longer than [`FolderLock::acquire`] waits.
    pub fn look(folder: &Path) -> Result<()> {
        // Nobody has a folder without this file; and one that cannot be opened says so when the folder is taken.
        let Ok(mut file) = File::open(folder.join(LOCK_NAME)) else { return Ok(()) };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Err(locked(folder, &mut file)),
            _ => Ok(()),
        }
    }

    /// The folder it guards.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn locked(folder: &Path, file: &mut File) -> Error {
    let mut owner = String::new();
    // Only for the message; a lock that cannot be read is a lock all the same.
    let _ = Read::by_ref(file).take(1024).read_to_string(&mut owner);
    Error::Locked { folder: folder.to_owned(), owner: Owner::parse(&owner).in_words() }
}

/// Who holds a lock: a line for each, `process`, `host`, `boot` (the id that the kernel gives each start of the machine) and `started`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Owner {
    process: String,
    host: String,
    boot: String,
    /// Clock ticks from the start of the machine to that of the process: with the boot, what tells it from a later one of its number.
    started: String,
}

impl Owner {
    fn this() -> Owner {
        let line = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        // Behind the name, which may hold anything and ends with the last bracket, the start is the 20th.
        let stat = line("/proc/self/stat");
        let started = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap_or_default();
        Owner {
            process: std::process::id().to_string(),
            host: line("/proc/sys/kernel/hostname"),
            boot: line("/proc/sys/kernel/random/boot_id"),
            started: started.to_owned(),
        }
    }

    fn to_text(&self) -> String {
        let Owner { process, host, boot, started } = self;
        format!("process {process}\nhost {host}\nboot {boot}\nstarted {started}\n")
    }

    fn parse(text: &str) -> Owner {
        let value = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            // It goes to a terminal.
            found.unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
        };
        Owner { process: value("process"), host: value("host"), boot: value("boot"), started: value("started") }
    }

    /// ` (process 123)`, with the host where that is another; nothing where it is not known.
    fn in_words(&self) -> String {
        let here = Owner::this();
        match (self.process.is_empty(), self.host.is_empty() || self.host == here.host) {
            (true, _) => String::new(),
            (false, true) => format!(" (process {})", self.process),
            (false, false) => format!(" (process {} on {})", self.process, self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_says_who_holds_it_where_and_since_when() {
        let folder = tempfile::tempdir().unwrap();
        let _lock = FolderLock::acquire(folder.path()).unwrap();
        let owner = Owner::parse(&fs::read_to_string(folder.path().join(LOCK_NAME)).unwrap());
        assert_eq!(owner, Owner::this());
        assert!(!owner.host.is_empty() && owner.boot.len() == 36, "{owner:?}");
        assert!(owner.started.parse::<u64>().unwrap() > 0, "{owner:?}");
    }

    #[test]
    fn a_holder_on_another_machine_is_named_with_it() {
        let owner = Owner { process: "7".to_owned(), host: "node\u{1b}3".to_owned(), ..Owner::default() };
        assert_eq!(Owner::parse(&owner.to_text()).in_words(), " (process 7 on node3)");
        assert_eq!(Owner::parse("process 7").in_words(), " (process 7)", "as an older version wrote it");
        assert_eq!(Owner::parse("").in_words(), "");
    }

    #[test]
    fn a_lock_that_a_dead_process_left_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let dead = Owner { process: "1".to_owned(), host: "elsewhere".to_owned(), ..Owner::this() };
        fs::write(folder.path().join(LOCK_NAME), dead.to_text() + "and more than the next one writes, by far\n")
            .unwrap();
        let _lock = FolderLock::acquire(folder.path()).unwrap();
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
        use std::os::unix::fs::MetadataExt;
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

    #[test]
    fn makes_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        FolderLock::acquire(&folder.path().join("a/b")).unwrap();
        assert!(folder.path().join("a/b").is_dir());
    }
}
