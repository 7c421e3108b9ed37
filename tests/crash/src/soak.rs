//! A long run of the whole program with every feature on: its memory does not grow, nor its descriptors and threads.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Report;
use crate::scene::{clear, start, wait};

/// How often the process is looked at.
const GLANCE: Duration = Duration::from_secs(1);
/// Share of the time in which caches fill and the allocator finds its size.
const WARM_UP: f64 = 0.25;
/// Spans that the rest is cut into: the least of each is compared, as pictures and checkpoints come and go.
const SPANS: usize = 24;
/// Growth that is none, MiB an hour. A leak of 4 KiB a step is 70 and more.
const MOST: f64 = 1.0;

/// Bytes of each step that the planted leak keeps (`SDTRAIN_SEEDED_LEAK`, which a build without `seeded-bugs` does not look at).
const PLANTED: usize = 4096;

/// What is switched on beside the small configuration.
const SETTINGS: [&str; 24] = [
    "train.max_steps=100000000",
    "train.threads=1",
    "train.gradient_accumulation_steps=2",
    "lora.train_text_encoder=true",
    "lora.dropout=0.1",
    "ema.enabled=true",
    "data.cache_latents=false",
    "data.bucketing.enabled=true",
    "data.subsets.0.shuffle_caption=true",
    "data.subsets.0.keep_tokens=1",
    "data.subsets.0.flip=true",
    "data.subsets.0.random_crop=true",
    "data.subsets.0.caption_dropout_rate=0.1",
    "noise.offset=0.05",
    "loss.min_snr_gamma=5",
    "lr_schedule.type=cosine",
    "lr_schedule.warmup_steps=10",
    "checkpoint.every_steps=25",
    "checkpoint.keep_last=2",
    "samples.every_steps=50",
    "samples.steps=2",
    "validation.path=../datasets/posters-validation",
    "validation.every_steps=50",
    "validation.num_samples=0",
];

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

/// Runs `program` for so long and looks at what it takes.
pub fn soak(program: &Path, repository: &Path, scratch: &Path, lasts: Duration) -> Report {
    let watched = watch(program, repository, &scratch.join("soak"), lasts, 0);
    let mut report = Report { tried: 1, ..Report::default() };
    match watched.and_then(|(glances, steps)| judge(&glances).map(|found| format!("{steps} steps; {found}"))) {
        Ok(found) => report.note = found,
        Err(reason) => report.failures.push(reason),
    }
    report
}

/// The same run of a program that keeps 4 KiB of each step: it must be seen to grow.
pub fn planted_leak(program: &Path, repository: &Path, scratch: &Path, lasts: Duration) -> Report {
    let watched = watch(program, repository, &scratch.join("leak"), lasts, PLANTED);
    let mut report = Report { tried: 1, ..Report::default() };
    match watched.map(|(glances, steps)| (judge(&glances), steps)) {
        Ok((Err(seen), steps)) => report.note = format!("{steps} steps; seen: {seen}"),
        Ok((Ok(found), steps)) => report.failures.push(format!(
            "{PLANTED} bytes of each of {steps} steps were kept, or the program is built without `seeded-bugs`, and nobody noticed: {found}"
        )),
        Err(reason) => report.failures.push(reason),
    }
    report
}

/// Looks at a run in `folder` that keeps `leak` bytes of each step; also how many steps it came to.
fn watch(
    program: &Path,
    repository: &Path,
    folder: &Path,
    lasts: Duration,
    leak: usize,
) -> Result<(Vec<Glance>, usize), String> {
    clear(folder)?;
    let mut command = Command::new(program);
    // As its samples' paths, those of the configuration start at the folder that it is in.
    command.arg("train").arg("--config").arg("tiny_cpu.toml").current_dir(repository.join("configs"));
    for setting in SETTINGS {
        command.args(["--set", setting]);
    }
    command.arg("--output").arg(folder.join("out")).env("SDTRAIN_SEEDED_LEAK", leak.to_string());
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

/// What the looks amount to; an error where something grows.
pub fn judge(glances: &[Glance]) -> Result<String, String> {
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
    let most = |of: fn(&Glance) -> usize, part: &[&Glance]| part.iter().map(|glance| of(glance)).max().unwrap_or(0);
    let (first, second) = steady.split_at(steady.len() / 2);
    let counts = [
        ("descriptors", most(|glance| glance.descriptors, first), most(|glance| glance.descriptors, second)),
        ("threads", most(|glance| glance.threads, first), most(|glance| glance.threads, second)),
    ];
    let peak = steady.iter().map(|glance| glance.memory).fold(0.0, f64::max);
    let said = format!(
        "{:.0} min, memory {memory:+.2} MiB an hour at a peak of {peak:.0} MiB, descriptors {} and {}, threads {} and {}",
        end / 60.0,
        counts[0].1,
        counts[0].2,
        counts[1].1,
        counts[1].2
    );
    let grows = counts.iter().any(|(_, before, after)| after > before);
    if memory > MOST || grows { Err(format!("it grows: {said}")) } else { Ok(said) }
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

    /// An hour of a process of 300 MiB with pictures every 50 seconds, that loses `leak` MiB an hour.
    fn hour(leak: f64) -> Vec<Glance> {
        let glance = |second: usize| {
            let picture = if second % 50 < 5 { 80.0 } else { (second % 7) as f64 * 0.3 };
            let seconds = second as f64;
            Glance { seconds, memory: 300.0 + picture + leak * seconds / 3600.0, descriptors: 30, threads: 9 }
        };
        (1..3600).map(glance).collect()
    }

    #[test]
    fn a_leak_is_seen_and_pictures_are_not_one() {
        judge(&hour(0.0)).expect("it does not grow");
        judge(&hour(0.8)).expect("less than what counts");
        // 4 KiB at each of 18,000 steps.
        assert!(judge(&hour(70.0)).unwrap_err().contains("it grows"));
        assert!(judge(&hour(1.5)).unwrap_err().contains("it grows"));
    }

    #[test]
    fn descriptors_and_threads_that_grow_are_seen() {
        let mut glances = hour(0.0);
        for glance in glances.iter_mut().skip(3000) {
            glance.descriptors += 1;
        }
        assert!(judge(&glances).unwrap_err().contains("descriptors 30 and 31"));
        assert!(judge(&glances[..20]).is_err());
    }
}
