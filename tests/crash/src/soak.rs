//! Long runs of the whole program with every feature on: their memory does not grow, nor their descriptors and threads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::scene::{clear, start, wait};
use crate::{Extent, Report};

/// How often the process is looked at.
const GLANCE: Duration = Duration::from_secs(1);
/// Share of the time in which caches fill and the allocator finds its size.
const WARM_UP: f64 = 0.25;
/// Spans that the rest is cut into: the least of each is compared, as pictures and checkpoints come and go.
const SPANS: usize = 24;
/// Growth that is none, MiB an hour.
const MOST: f64 = 1.0;
/// Growth that is none, bytes a step: what few steps lose is little in an hour. A leak first fills the holes that the allocator has,
/// so that of 4 KiB a step a tenth may show; a run that loses nothing has shown 22 bytes.
const MOST_A_STEP: f64 = 256.0;

/// Bytes of each step that the planted leak keeps (`SDTRAIN_SEEDED_LEAK`, which a build without `seeded-bugs` does not look at).
const PLANTED: usize = 4096;

/// The runs, each with whatever goes together, by the names of their configurations in `tests/crash/soak`.
pub const PARTS: [&str; 3] = ["lora", "full", "textual_inversion"];

/// One look at the process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Glance {
    /// Since the start.
    pub seconds: f64,
    /// Resident memory, MiB.
    pub memory: f64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

/// Runs `program` for so long with each part of `extent` and looks at what it takes.
pub fn soak(program: &Path, repository: &Path, scratch: &Path, extent: Extent, lasts: Duration) -> Report {
    each_part(repository, extent, |configuration| {
        let (glances, steps) = watch(program, configuration, &scratch.join("soak"), lasts, 0)?;
        let judged = judge(&glances, steps)?;
        match judged.memory_grows || judged.counts_grow {
            true => Err(format!("it grows: {}", judged.said)),
            false => Ok(judged.said),
        }
    })
}

/// The same runs of a program that keeps 4 KiB of each step: they must be seen to grow.
pub fn planted_leak(program: &Path, repository: &Path, scratch: &Path, extent: Extent, lasts: Duration) -> Report {
    each_part(repository, extent, |configuration| {
        let (glances, steps) = watch(program, configuration, &scratch.join("leak"), lasts, PLANTED)?;
        let judged = judge(&glances, steps)?;
        match judged.memory_grows {
            true => Ok(format!("seen: {}", judged.said)),
            false => Err(format!(
                "{PLANTED} bytes of each step were kept, or the program is built without `seeded-bugs`, and nobody noticed: {}",
                judged.said
            )),
        }
    })
}

/// Tries each part of `extent`, and notes what was found.
fn each_part(repository: &Path, extent: Extent, attempt: impl Fn(&Path) -> Result<String, String>) -> Report {
    let mut report = Report::default();
    let mut found = Vec::new();
    for part in parts(extent) {
        let tried = attempt(&configuration(repository, part));
        found.push(format!("{part}: {}", tried.as_ref().unwrap_or_else(|reason| reason)));
        report.tried(|| part.to_owned(), tried.map(drop));
    }
    report.note = found.join("; ");
    report
}

fn parts(extent: Extent) -> impl Iterator<Item = &'static str> {
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    PARTS.into_iter().skip(size(extent.from)).take(size(extent.count))
}

fn configuration(repository: &Path, part: &str) -> PathBuf {
    repository.join("tests/crash/soak").join(part).with_extension("toml")
}

/// Looks at a run in `folder` that keeps `leak` bytes of each step; also how many steps it came to.
fn watch(
    program: &Path,
    configuration: &Path,
    folder: &Path,
    lasts: Duration,
    leak: usize,
) -> Result<(Vec<Glance>, usize), String> {
    clear(folder)?;
    let mut command = Command::new(program);
    command
        .arg("train")
        .arg("--config")
        .arg(configuration)
        .arg("--output")
        .arg(folder.join("out"))
        .env("SDTRAIN_SEEDED_LEAK", leak.to_string());
    // What it says in an hour is more than a pipe holds.
    let log = fs::File::create(folder.join("said")).map_err(|error| error.to_string())?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child = start(command)?;
    let began = Instant::now();
    let mut glances = Vec::new();
    while began.elapsed() < lasts {
        std::thread::sleep(GLANCE);
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            let said = fs::read_to_string(folder.join("said")).unwrap_or_default();
            let last: Vec<&str> = said.trim().lines().rev().take(4).collect();
            return Err(format!("it ended early with {status}: {}", last.join(" / ")));
        }
        glances.extend(glance(&child, began.elapsed().as_secs_f64()));
    }
    let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    asked.map_err(|error| format!("`kill` cannot be started: {error}"))?;
    let end = wait(child)?;
    let metrics = fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap_or_default();
    match end.status.code() {
        Some(75) => Ok((glances, metrics.lines().count())),
        _ => Err(format!("asked to stop, it ended with {}", end.status)),
    }
}

/// What the system says of a process; nothing where it has just ended.
fn glance(child: &Child, seconds: f64) -> Option<Glance> {
    let process = Path::new("/proc").join(child.id().to_string());
    let status = fs::read_to_string(process.join("status")).ok()?;
    let number = |name: &str| -> Option<f64> {
        status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    Some(Glance {
        seconds,
        memory: number("VmRSS:")? / 1024.0,
        threads: number("Threads:")? as usize,
        descriptors: fs::read_dir(process.join("fd")).ok()?.count(),
    })
}

/// What the looks at a run amount to.
#[derive(Debug)]
pub struct Judged {
    /// Whether its memory does.
    pub memory_grows: bool,
    /// Whether its descriptors or its threads do.
    pub counts_grow: bool,
    /// In numbers.
    pub said: String,
}

/// Judges the looks at a run of so many steps; an error where they are too few for that.
pub fn judge(glances: &[Glance], steps: usize) -> Result<Judged, String> {
    let end = glances.last().map_or(0.0, |glance| glance.seconds);
    let steady: Vec<&Glance> = glances.iter().filter(|glance| glance.seconds >= WARM_UP * end).collect();
    if steady.len() < 2 * SPANS {
        return Err(format!("only {} looks at the process: it did not last long enough", steady.len()));
    }
    let spans: Vec<&[&Glance]> = steady.chunks(steady.len().div_ceil(SPANS)).collect();
    let least = |of: fn(&Glance) -> f64| -> Vec<(f64, f64)> {
        let point = |span: &&[&Glance]| {
            let at = span.iter().map(|glance| glance.seconds).sum::<f64>() / span.len() as f64;
            (at / 3600.0, span.iter().map(|glance| of(glance)).fold(f64::INFINITY, f64::min))
        };
        spans.iter().map(point).collect()
    };
    let memory = slope(&least(|glance| glance.memory));
    let a_step = memory * 1024.0 * 1024.0 * (end / 3600.0) / steps.max(1) as f64;
    let most = |of: fn(&Glance) -> usize, part: &[&Glance]| part.iter().map(|glance| of(glance)).max().unwrap_or(0);
    let (first, second) = steady.split_at(steady.len() / 2);
    let counts = [
        ("descriptors", most(|glance| glance.descriptors, first), most(|glance| glance.descriptors, second)),
        ("threads", most(|glance| glance.threads, first), most(|glance| glance.threads, second)),
    ];
    let peak = steady.iter().map(|glance| glance.memory).fold(0.0, f64::max);
    let said = format!(
        "{steps} steps; {:.0} min, memory {memory:+.2} MiB an hour, {a_step:+.0} bytes a step, at a peak of {peak:.0} MiB, \
         descriptors {} and {}, threads {} and {}",
        end / 60.0,
        counts[0].1,
        counts[0].2,
        counts[1].1,
        counts[1].2
    );
    let counts_grow = counts.iter().any(|(_, before, after)| after > before);
    Ok(Judged { memory_grows: memory > MOST || a_step > MOST_A_STEP, counts_grow, said })
}

/// The slope that lies in the middle of those between all pairs of points (Theil 1950): a few that stand out do not move it.
fn slope(points: &[(f64, f64)]) -> f64 {
    let mut slopes: Vec<f64> = (0..points.len())
        .flat_map(|first| (first + 1..points.len()).map(move |second| (first, second)))
        .map(|(first, second)| (points[second].1 - points[first].1) / (points[second].0 - points[first].0))
        .collect();
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an hour on an idle machine.
    const STEPS: usize = 18_000;

    /// An hour of a process of 300 MiB with pictures every 50 seconds, that loses `leak` MiB an hour.
    fn hour(leak: f64) -> Vec<Glance> {
        let glance = |second: usize| {
            let picture = if second % 50 < 5 { 80.0 } else { (second % 7) as f64 * 0.3 };
            let seconds = second as f64;
            Glance { seconds, memory: 300.0 + picture + leak * seconds / 3600.0, descriptors: 30, threads: 9 }
        };
        (1..3600).map(glance).collect()
    }

    fn judged(glances: &[Glance], steps: usize) -> Judged {
        judge(glances, steps).expect("it lasts an hour")
    }

    #[test]
    fn a_leak_is_seen_and_pictures_are_not_one() {
        assert!(!judged(&hour(0.0), STEPS).memory_grows);
        assert!(!judged(&hour(0.8), STEPS).memory_grows, "less than what counts");
        // 4 KiB at each of 18,000 steps.
        assert!(judged(&hour(70.0), STEPS).memory_grows);
        assert!(judged(&hour(1.5), STEPS).memory_grows);
    }

    #[test]
    fn a_leak_is_seen_however_few_steps_an_hour_has() {
        // A tenth of 4 KiB at each of 2349 steps, which is less than 1 MiB; and what such an hour read without a leak.
        assert!(judged(&hour(0.92), 2349).memory_grows);
        assert!(!judged(&hour(0.05), 2349).memory_grows);
    }

    #[test]
    fn descriptors_and_threads_that_grow_are_seen() {
        let mut glances = hour(0.0);
        for glance in glances.iter_mut().skip(3000) {
            glance.descriptors += 1;
        }
        let judged = judged(&glances, STEPS);
        assert!(
            !judged.memory_grows && judged.counts_grow && judged.said.contains("descriptors 30 and 31"),
            "{judged:?}"
        );
    }

    #[test]
    fn a_few_looks_tell_nothing() {
        let error = judge(&hour(70.0)[..20], STEPS).expect_err("a third of a minute");
        assert!(error.contains("did not last long enough"), "{error}");
    }

    #[test]
    fn the_configuration_of_every_part_is_one() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("it lies in `tests`");
        for part in PARTS {
            let path = configuration(repository, part);
            sdtrain_recipe::TrainConfig::load(&path, &[]).unwrap_or_else(|problems| panic!("{part}: {problems}"));
        }
    }
}
