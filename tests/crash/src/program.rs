//! The whole program on the tiny built-in base: killed at random moments and at every call of its saves, and its power cut. What it
//! said to be saved is there, and the product is the same bits.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::calls::{CALLS, can_trace};
use crate::draw::draw;
use crate::power::{Disk, can_mount};
use crate::scene::{End, clear, start, wait};
use crate::{Extent, Report};

/// Bytes of the disk whose power is cut: a run of the tiny base takes a tenth of it.
const DISK: u64 = 256 << 20;

/// The program with the configuration of this repository that is called `tiny_cpu`.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    /// `sdtrain`.
    pub path: &'a Path,
    /// Where its configuration is.
    pub repository: &'a Path,
    /// Steps of the run; a checkpoint is saved at every second one.
    pub steps: u32,
}

/// A run that nothing disturbed.
struct Undisturbed {
    left: Left,
    lasted: Duration,
}

impl Program<'_> {
    /// The command that trains into `folder`, behind a tracer if there is one.
    fn command(&self, tracer: &[&OsStr], folder: &Path) -> Command {
        let mut words = tracer.iter().copied().chain([self.path.as_os_str()]);
        let mut command = Command::new(words.next().expect("the program is one"));
        command.args(words).arg("train").arg("--config").arg(self.repository.join("configs/tiny_cpu.toml"));
        let steps = format!("train.max_steps={}", self.steps);
        for setting in [&steps, "checkpoint.every_steps=2", "samples.prompts=[]", "train.threads=1"] {
            command.args(["--set", setting]);
        }
        command.arg("--output").arg(folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn undisturbed(&self, folder: &Path) -> Result<Undisturbed, String> {
        let began = Instant::now();
        clear(folder)?;
        let end = wait(start(self.command(&[], folder))?)?;
        match end.status.code() {
            Some(0) => Ok(Undisturbed { left: Left::of(folder)?, lasted: began.elapsed() }),
            _ => Err(format!("a run that nothing disturbs ended with {}: {}", end.status, end.errors.trim())),
        }
    }

    /// Lets a run go on to its end and looks at its bits.
    fn finish(&self, folder: &Path, expected: &Undisturbed, was: Was) -> Result<(), String> {
        let end = wait(start(self.command(&[], folder))?)?;
        match end.status.code() {
            Some(0) => has_the_bits(folder, expected, was),
            _ => Err(format!("the run cannot go on: {}, {}", end.status, end.errors.trim())),
        }
    }

    /// (a) SIGKILL at random moments, again and again until a run is at its end.
    pub fn kills(self, scratch: &Path, extent: Extent) -> Report {
        with_undisturbed(self, scratch, |expected| {
            let mut report = Report::default();
            let (mut ends, mut case) = (0u64, extent.from);
            while extent.goes_on(&report) {
                let folder = scratch.join("killed");
                let ended = self
                    .one_run(&folder, expected.lasted, ends, &mut case, &extent, &mut report)
                    .and_then(|()| has_the_bits(&folder, expected, Was::Killed));
                ends += 1;
                if let Err(reason) = ended {
                    report.failures.push(format!("before kill {case}: {reason}"));
                }
            }
            report.note = format!("{ends} runs came to the bits of the run that nothing disturbed");
            report
        })
    }

    fn one_run(
        self,
        folder: &Path,
        longest: Duration,
        run: u64,
        case: &mut u64,
        extent: &Extent,
        report: &mut Report,
    ) -> Result<(), String> {
        clear(folder)?;
        let mut saved = None;
        loop {
            let mut child = start(self.command(&[], folder))?;
            // The last run is let through, so that the bits after the last kill are looked at too.
            if extent.goes_on(report) {
                let longest = longest.as_micros() as u64;
                std::thread::sleep(Duration::from_micros(draw("program", *case, &run.to_string(), longest)));
                let _ = child.kill();
            }
            let end = wait(child)?;
            saved = saved.max(saved_steps(&end).max());
            match end.status.code() {
                None if end.was_killed() => {
                    *case += 1;
                    report.tried += 1;
                    holds_what_was_saved(folder, saved)?;
                }
                Some(0) => return Ok(()),
                _ => return Err(format!("it ended with {}: {}", end.status, end.errors.trim())),
            }
        }
    }

    /// (b) SIGKILL at every file-system call by which the main thread saves: two checkpoints and the product.
    pub fn kills_at_calls(self, scratch: &Path, extent: Extent) -> Report {
        if let Err(reason) = can_trace() {
            return Report::skipped(reason);
        }
        with_undisturbed(self, scratch, |expected| {
            let folder = scratch.join("traced");
            let points = match self.points(&folder, scratch) {
                Ok(points) => points,
                Err(reason) => return Report { failures: vec![reason], ..Report::default() },
            };
            let mut report = Report { note: format!("{} calls", points.len()), ..Report::default() };
            let left = (points.len() as u64).saturating_sub(extent.from);
            let stride = left.checked_div(extent.count).unwrap_or_default().max(1);
            for (call, number) in points.iter().skip(extent.from as usize).step_by(stride as usize) {
                if !extent.goes_on(&report) {
                    break;
                }
                let killed = self.kill_at(&folder, call, *number);
                let result = killed.and_then(|()| self.finish(&folder, expected, Was::Killed));
                report.tried(|| format!("kill at {call} {number}"), result);
            }
            report
        })
    }

    fn kill_at(self, folder: &Path, call: &str, number: u64) -> Result<(), String> {
        clear(folder)?;
        let (only, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={number}"));
        let tracer = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &only, "-e", &inject].map(OsStr::new);
        let end = wait(start(self.command(&tracer, folder))?)?;
        match end.was_killed() {
            true => holds_what_was_saved(folder, saved_steps(&end).max()),
            false => Err(format!("it was not killed: {} {}", end.status, end.errors.trim())),
        }
    }

    /// The calls of the main thread on the run's folder from its first checkpoint on, each with its number among those of its name.
    fn points(self, folder: &Path, scratch: &Path) -> Result<Vec<(String, u64)>, String> {
        clear(folder)?;
        let trace = scratch.join("calls.txt");
        let (only, trace_path) = (format!("trace={CALLS}"), trace.to_string_lossy());
        let tracer = ["strace", "-f", "-qqq", "-y", "-o", &*trace_path, "-e", &only].map(OsStr::new);
        let end = wait(start(self.command(&tracer, folder))?)?;
        if end.status.code() != Some(0) {
            return Err(format!("a traced run ended with {}: {}", end.status, end.errors.trim()));
        }
        let text = fs::read_to_string(&trace).map_err(|error| format!("cannot read `{}`: {error}", trace.display()))?;
        let main = text.split_whitespace().next().unwrap_or_default();
        let folder = folder.to_string_lossy();
        let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut points, mut saves) = (Vec::new(), false);
        for line in text.lines() {
            // `4711 openat(AT_FDCWD</somewhere>, "…", …) = 3</…>`; strace counts each thread's calls by themselves.
            let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
            let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
            if thread != main {
                continue;
            }
            let number = numbers.entry(call).or_default();
            *number += 1;
            saves |= line.contains("step-000002");
            if saves && line.contains(&*folder) {
                points.push((call.to_owned(), *number));
            }
        }
        if points.is_empty() { Err("no call of a save was seen".to_owned()) } else { Ok(points) }
    }

    /// (d) Power cuts on a loop-mounted ext4, again and again until a run is at its end.
    pub fn power_cuts(self, scratch: &Path, extent: Extent) -> Report {
        if let Err(reason) = can_mount(scratch) {
            return Report::skipped(reason);
        }
        with_undisturbed(self, scratch, |expected| {
            let mut report = Report::default();
            let disk = match Disk::make(&scratch.join("disk"), DISK) {
                Ok(disk) => disk,
                Err(reason) => return Report { failures: vec![reason], ..report },
            };
            let (mut so_far, mut ends, mut acknowledged, mut too_late) = (SoFar::default(), 0, 0, 0);
            while extent.goes_on(&report) {
                let case = extent.from + report.tried;
                let cut = self.one_cut(&disk, expected, &mut so_far, case);
                let Cut { met_it, saves, came_to_its_end } = *cut.as_ref().unwrap_or(&Cut::FAILED);
                ends += u64::from(came_to_its_end);
                acknowledged += saves;
                match met_it {
                    true => report.tried(|| format!("cut {case}"), cut.map(|_| ())),
                    // No cut at all; the next one is drawn anew.
                    false => too_late += 1,
                }
            }
            report.note = format!(
                "each met a run that was going on ({too_late} that came after its end are not counted); {acknowledged} checkpoints \
                 were acknowledged, {ends} runs came to the bits of the run that nothing disturbed"
            );
            report
        })
    }

    /// Lets the run work for a while, cuts the power, and looks at what the disk kept.
    fn one_cut(self, disk: &Disk, expected: &Undisturbed, so_far: &mut SoFar, case: u64) -> Result<Cut, String> {
        disk.mount()?;
        let folder = disk.mount.join("run");
        if so_far.saved.is_none() {
            clear(&folder)?;
        }
        let child = start(self.command(&[], &folder))?;
        let longest = expected.lasted.as_millis() as u64;
        let delay = draw("program-power", case, &format!("delay of life {}", so_far.lives), longest);
        so_far.lives += 1;
        std::thread::sleep(Duration::from_millis(longest / 4 + delay));
        let end = disk.cut_off(child)?;
        // One whose disk is gone may end by itself, with an error, before it is killed.
        let (met_it, saves) = (end.status.code() != Some(0), saved_steps(&end).count() as u64);
        so_far.saved = so_far.saved.max(saved_steps(&end).max());
        holds_what_was_saved(&folder, so_far.saved)?;
        // A run that was at its end, or each fifth: the bits are those of a run that nothing disturbed.
        let came_to_its_end = !met_it || case % 5 == 4;
        if came_to_its_end {
            self.finish(&folder, expected, Was::CutOff)?;
            so_far.saved = None;
        }
        disk.unmount()?;
        Ok(Cut { met_it, saves, came_to_its_end })
    }
}

/// What is known of the run whose machine loses power again and again.
#[derive(Default)]
struct SoFar {
    /// The newest checkpoint that it said to have saved; none before its first.
    saved: Option<u64>,
    /// How often a run was started.
    lives: u64,
}

/// What a power cut came to.
#[derive(Clone, Copy)]
struct Cut {
    /// The program was still running.
    met_it: bool,
    /// Checkpoints that it said to have saved in this life.
    saves: u64,
    came_to_its_end: bool,
}

impl Cut {
    /// One that found something wrong counts as a case.
    const FAILED: Cut = Cut { met_it: true, saves: 0, came_to_its_end: false };
}

/// What every row needs first.
fn with_undisturbed(program: Program, scratch: &Path, row: impl FnOnce(&Undisturbed) -> Report) -> Report {
    match program.undisturbed(&scratch.join("straight")) {
        Ok(expected) => row(&expected),
        Err(reason) => Report { failures: vec![reason], ..Report::default() },
    }
}

/// The checkpoints that the program said to have saved.
fn saved_steps(end: &End) -> impl Iterator<Item = u64> {
    end.errors.lines().filter(|line| line.contains("saved ")).filter_map(|line| {
        let step = line.rsplit_once("step-")?.1;
        step.get(..6)?.parse().ok()
    })
}

/// Every checkpoint that has its name is whole, and the newest is at least the one that was said to be saved.
fn holds_what_was_saved(folder: &Path, saved: Option<u64>) -> Result<(), String> {
    let mut newest = None;
    for entry in fs::read_dir(folder.join("checkpoints")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) {
            sdtrain_checkpoint::verify(&entry.path()).map_err(|error| error.to_string())?;
            newest = newest.max(Some(step));
        }
    }
    match newest >= saved {
        true => Ok(()),
        false => Err(format!("it said that step {saved:?} is saved, and the newest checkpoint is {newest:?}")),
    }
}

/// What a run went through.
#[derive(Clone, Copy, PartialEq)]
enum Was {
    Killed,
    /// Its machine lost power: lines of metrics, which are not forced to disk, may be gone.
    CutOff,
}

fn has_the_bits(folder: &Path, expected: &Undisturbed, was: Was) -> Result<(), String> {
    let (left, expected) = (Left::of(folder)?, &expected.left);
    let are_all_there = was == Was::CutOff || left.steps.len() == expected.steps.len();
    if left.products != expected.products {
        Err("the product has other bits".to_owned())
    } else if !are_all_there || !left.steps.iter().all(|step| expected.steps.contains(step)) {
        Err("`metrics.jsonl` has other steps, losses, norms or rates".to_owned())
    } else if left.checkpoint != expected.checkpoint {
        Err("the last checkpoint has other bits".to_owned())
    } else {
        Ok(())
    }
}

/// What a run leaves behind that has to be the same bits.
struct Left {
    products: Vec<(PathBuf, Vec<u8>)>,
    /// Every step of `metrics.jsonl`, without what a clock measures.
    steps: Vec<serde_json::Value>,
    /// Tensors and position of the last checkpoint.
    checkpoint: Vec<Vec<u8>>,
}

impl Left {
    fn of(folder: &Path) -> Result<Left, String> {
        let read =
            |path: PathBuf| fs::read(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()));
        let metrics = String::from_utf8_lossy(&read(folder.join("metrics.jsonl"))?).into_owned();
        let without_clocks = |line: &str| -> Result<serde_json::Value, String> {
            let mut step: serde_json::Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
            if let Some(step) = step.as_object_mut() {
                step.retain(|name, _| !["seconds", "data_wait_seconds", "images_per_second"].contains(&name.as_str()));
            }
            Ok(step)
        };
        let steps = metrics.lines().map(without_clocks).collect::<Result<_, _>>()?;
        let checkpoints = folder.join("checkpoints");
        let latest = String::from_utf8_lossy(&read(checkpoints.join("latest"))?).trim().to_owned();
        let files = ["tensors.safetensors", "state.json"].map(|name| read(checkpoints.join(&latest).join(name)));
        Ok(Left { products: products(folder)?, steps, checkpoint: files.into_iter().collect::<Result<_, _>>()? })
    }
}

/// Name and content of every model file of a run.
pub(crate) fn products(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("cannot list `{}`: {error}", folder.display()))?;
    let mut products = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            let bytes = fs::read(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
            products.push((path.file_name().unwrap_or_default().into(), bytes));
        }
    }
    products.sort();
    if products.is_empty() { Err("there is no product".to_owned()) } else { Ok(products) }
}
