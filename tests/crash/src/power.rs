//! (d) Power cuts: the driver on a loop-mounted ext4 that is shut down with its journal unflushed, and mounted again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::draw::draw;
use crate::scene::{End, Scene, clear, wait};
use crate::{Extent, Report};

const ROW: &str = "power";
/// Bytes of a disk.
const SIZE: u64 = 48 << 20;
/// How long a disk that is busy is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: from here on nothing reaches the disk, and what only the memory
/// knows is lost. Python makes the call, as the standard library of Rust has none for it.
const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
                        fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// Cuts the power of the driver, on as many disks at a time as `at_once` says; most of a cut is waiting.
pub fn power_cuts(driver: &Path, scratch: &Path, at_once: u64, extent: Extent) -> Report {
    if let Err(reason) = can_mount(scratch) {
        return Report::skipped(reason);
    }
    let at_once = at_once.clamp(1, extent.count.max(1));
    let reports = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once)
            .map(|worker| {
                let extent = Extent { count: extent.count.div_ceil(at_once), ..extent };
                scope.spawn(move || one_disk(driver, &scratch.join(format!("disk{worker}")), worker, extent))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| panicked())).collect::<Vec<_>>()
    });
    let (mut report, mut acknowledged) = (Report::default(), 0);
    for (one, saves) in reports {
        report.tried += one.tried;
        report.failures.extend(one.failures);
        acknowledged += saves;
    }
    report.note = format!("on {at_once} disks at a time; {acknowledged} checkpoints were acknowledged");
    report
}

fn panicked() -> (Report, u64) {
    (Report { failures: vec!["the harness panicked".to_owned()], ..Report::default() }, 0)
}

/// The report of one disk, and how many checkpoints were acknowledged on it.
fn one_disk(driver: &Path, place: &Path, worker: u64, extent: Extent) -> (Report, u64) {
    let (mut report, mut acknowledged) = (Report::default(), 0);
    let mut scene: Option<Scene> = None;
    let disk = match Disk::make(place, SIZE) {
        Ok(disk) => disk,
        Err(reason) => return (Report { failures: vec![reason], ..report }, 0),
    };
    while extent.goes_on(&report) {
        let case = (extent.from + report.tried) * 64 + worker;
        let result = one_cut(driver, &disk, &mut scene, &mut acknowledged, case);
        if result.is_err() {
            scene = None;
        }
        report.tried(|| format!("cut {case}"), result);
    }
    (report, acknowledged)
}

/// Lets the run work for a while, cuts the power, and looks at what the disk kept. Goes on with that run at the next cut.
fn one_cut(
    driver: &Path,
    disk: &Disk,
    scene: &mut Option<Scene>,
    acknowledged: &mut u64,
    case: u64,
) -> Result<(), String> {
    disk.mount()?;
    let mut run = match scene.take() {
        Some(run) => run,
        None => {
            let folder = disk.mount.join("run");
            clear(&folder)?;
            let mut run = Scene::new(driver, &folder, 40, 1 + (case % 2) as usize);
            run.pace = 15;
            // As far as the machine remembers; the folder itself is made before anything is acknowledged in it.
            run.known.lost_power = true;
            run
        }
    };
    run.plan.build = case.to_string();
    let child = run.start()?;
    std::thread::sleep(Duration::from_millis(50 + draw(ROW, case, "delay", 900)));
    let end = disk.cut_off(child)?;
    run.known.hear(&end.output)?;
    *acknowledged += end.output.lines().filter(|line| line.starts_with("saved ")).count() as u64;
    let checked = run.check();
    if checked.is_ok() && run.known.finished {
        let ended = run.finish();
        disk.unmount()?;
        return ended;
    }
    disk.unmount()?;
    *scene = Some(run);
    checked
}

/// A file with an ext4 in it, and where it is mounted.
pub(crate) struct Disk {
    image: PathBuf,
    pub(crate) mount: PathBuf,
}

impl Disk {
    pub(crate) fn make(place: &Path, size: u64) -> Result<Disk, String> {
        clear(place)?;
        let disk = Disk { image: place.join("image"), mount: place.join("mount") };
        fs::create_dir(&disk.mount).map_err(|error| error.to_string())?;
        File::create(&disk.image).and_then(|file| file.set_len(size)).map_err(|error| error.to_string())?;
        command("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), disk.image.as_os_str()])?;
        Ok(disk)
    }

    pub(crate) fn mount(&self) -> Result<(), String> {
        // A commit each second, so that the journal holds more than what was forced to it.
        let (image, mount) = (self.image.as_os_str(), self.mount.as_os_str());
        command("mount", &["-o".as_ref(), "loop,commit=1".as_ref(), image, mount])
    }

    /// Cuts the power that `child` and its disk live on: how it ended. What follows is the machine after it has started again.
    pub(crate) fn cut_off(&self, mut child: Child) -> Result<End, String> {
        let shut_down = self.shut_down();
        let _ = child.kill();
        let end = wait(child)?;
        self.unmount()?;
        shut_down?;
        self.mount()?;
        Ok(end)
    }

    fn shut_down(&self) -> Result<(), String> {
        command("python3", &["-c".as_ref(), SHUTDOWN.as_ref(), self.mount.as_os_str()])
    }

    /// The system may hold a disk that was just cut off for a moment longer: on a busy machine one in a few hundred is asked again.
    pub(crate) fn unmount(&self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            match command("umount", &[self.mount.as_os_str()]) {
                Err(reason) if reason.contains("busy") && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        // It is mounted only if something went wrong in between.
        let _ = command.arg(&self.mount).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn command(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("`{program}` failed: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Whether a disk can be made, mounted and shut down here.
pub(crate) fn can_mount(scratch: &Path) -> Result<(), String> {
    let place = scratch.join("probe");
    let disk = Disk::make(&place, SIZE)?;
    let tried = disk.mount().and_then(|()| {
        let shut_down = disk.shut_down();
        disk.unmount().and(shut_down)
    });
    tried.map_err(|reason| format!("needs root, loop devices and ext4 with its shutdown call: {reason}"))
}
