//! A run as a process in a folder of its own: started, ended, and held against the oracle.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sdtrain_checkpoint::vfs::RealVfs;

use crate::oracle::{Acknowledged, check, check_end, check_metrics};
use crate::run::{FIRST, Plan, STATE, name};

/// Longer than any life of the driver; one that takes it hangs.
const HANGS: Duration = Duration::from_secs(60);

/// A run and what it has acknowledged.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Program that runs.
    pub driver: PathBuf,
    /// Where.
    pub folder: PathBuf,
    /// How.
    pub plan: Plan,
    /// Milliseconds of each step.
    pub pace: u64,
    /// What it has said.
    pub known: Acknowledged,
}

/// How a life ended.
#[derive(Debug)]
pub struct End {
    /// Status of the process.
    pub status: ExitStatus,
    /// All that it said on standard output.
    pub output: String,
    /// And on standard error.
    pub errors: String,
}

impl End {
    /// Killed by SIGKILL.
    pub fn was_killed(&self) -> bool {
        self.status.signal() == Some(9)
    }
}

impl Scene {
    /// A run that has not begun. The build is told apart by `life`, so that each life saves its first checkpoint again.
    pub fn new(driver: &Path, folder: &Path, steps: u64, keep_last: usize) -> Scene {
        let plan = Plan { steps, every: 2, keep_last, build: "0".to_owned() };
        Scene { driver: driver.to_owned(), folder: folder.to_owned(), plan, pace: 0, known: Acknowledged::default() }
    }

    /// A run that was killed between saving and pruning, whose newest checkpoint a disk then damaged, and which is to
    /// keep only one from now on. Left-overs of earlier kills lie about.
    pub fn prepared(driver: &Path, folder: &Path) -> Result<Scene, String> {
        let mut before = Scene::new(driver, folder, 4, 2);
        let end = before.life()?;
        if end.status.code() != Some(0) {
            return Err(format!("a run that nothing disturbs ended with {}: {}", end.status, end.errors));
        }
        let damage = || -> std::io::Result<()> {
            let checkpoints = folder.join("checkpoints");
            let newest = checkpoints.join(name(FIRST + 4)).join(STATE);
            let mut bytes = fs::read(&newest)?;
            bytes[40] ^= 1;
            fs::write(&newest, bytes)?;
            // The product of the shorter run is not that of the longer one.
            fs::remove_file(folder.join(crate::run::PRODUCT))?;
            for left in [".tmp-step-1", ".trash-step-2"] {
                fs::create_dir(checkpoints.join(left))?;
                fs::write(checkpoints.join(left).join("half"), b"half")?;
            }
            fs::write(checkpoints.join(".tmp-latest"), b"step-")?;
            // As the damage makes the run go back, so does `latest`.
            fs::write(checkpoints.join("latest"), format!("{}\n", name(FIRST + 2)))
        };
        damage().map_err(|error| format!("cannot prepare `{}`: {error}", folder.display()))?;
        let known = Acknowledged { saved: Some(FIRST + 2), damaged: Some(FIRST + 4), ..Acknowledged::default() };
        let plan = Plan { steps: 8, every: 2, keep_last: 1, build: "1".to_owned() };
        Ok(Scene { plan, known, ..before })
    }

    /// The program and what it is told, behind a tracer if there is one.
    pub fn command(&self, before: &[&OsStr]) -> Command {
        let mut words = before.iter().copied().chain([self.driver.as_os_str()]);
        let mut command = Command::new(words.next().expect("the driver is one"));
        command.args(words).arg(&self.folder).arg(self.plan.steps.to_string()).arg(self.plan.every.to_string());
        command.arg(self.plan.keep_last.to_string()).arg(&self.plan.build).arg(self.pace.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it.
    pub fn start(&self) -> Result<Child, String> {
        start(self.command(&[]))
    }

    /// One life that nothing disturbs.
    pub fn life(&mut self) -> Result<End, String> {
        let end = wait(self.start()?)?;
        self.known.hear(&end.output)?;
        Ok(end)
    }

    /// What must hold at any moment in which nobody writes.
    pub fn check(&self) -> Result<(), String> {
        check(&RealVfs, &self.folder, &self.known, &self.plan)?;
        check_metrics(&RealVfs, &self.folder, &self.known, &self.plan)
    }

    /// Lets it run to its end and checks that it is the end of a run that was never disturbed.
    pub fn finish(&mut self) -> Result<(), String> {
        // Another build, so that it saves and prunes once more if it was killed after its last save.
        self.plan.build = "end".to_owned();
        let end = self.life()?;
        if end.status.code() != Some(0) {
            return Err(format!("the run cannot go on: {}, {}", end.status, end.errors.trim()));
        }
        self.check_end()
    }

    /// What must hold at the end.
    pub fn check_end(&self) -> Result<(), String> {
        check_end(&RealVfs, &self.folder, &self.known, &self.plan)?;
        check_metrics(&RealVfs, &self.folder, &self.known, &self.plan)
    }
}

/// Starts a command with its output piped.
pub fn start(mut command: Command) -> Result<Child, String> {
    command.spawn().map_err(|error| format!("cannot start {:?}: {error}", command.get_program()))
}

/// Waits for a process; one that hangs is killed and reported.
pub fn wait(mut child: Child) -> Result<End, String> {
    let began = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if began.elapsed() > HANGS => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("the run hangs".to_owned());
            }
            None => std::thread::sleep(Duration::from_micros(500)),
        }
    };
    let (mut output, mut errors) = (String::new(), String::new());
    // It says far less than a pipe holds, so nothing waits for these to be read.
    if let Some(mut pipe) = child.stdout.take() {
        let _ = pipe.read_to_string(&mut output);
    }
    if let Some(mut pipe) = child.stderr.take() {
        let _ = pipe.read_to_string(&mut errors);
    }
    Ok(End { status, output, errors })
}

/// An empty folder in the place of whatever was there.
pub fn clear(folder: &Path) -> Result<(), String> {
    let cleared = match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    };
    cleared.map_err(|error| format!("cannot clear `{}`: {error}", folder.display()))
}

/// A copy of a folder in the place of whatever was there.
pub fn copy_folder(from: &Path, to: &Path) -> Result<(), String> {
    fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            match entry.file_type()?.is_dir() {
                true => copy(&entry.path(), &target)?,
                false => fs::copy(entry.path(), &target).map(|_| ())?,
            }
        }
        Ok(())
    }
    clear(to)?;
    copy(from, to).map_err(|error| format!("cannot copy `{}`: {error}", from.display()))
}
