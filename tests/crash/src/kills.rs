//! (a) SIGKILL at random moments: of each life, until a run is through; then the next run.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::draw::draw;
use crate::scene::{Scene, clear, wait};
use crate::{Extent, Report};

const ROW: &str = "kills";

/// Kills the driver, in folders below `scratch`.
pub fn kills(driver: &Path, scratch: &Path, extent: Extent) -> Report {
    let mut report = Report::default();
    let mut ends = 0u64;
    let mut case = extent.from;
    let longest = match undisturbed_time(driver, &scratch.join("undisturbed")) {
        Ok(longest) => longest,
        Err(reason) => return Report { failures: vec![reason], ..report },
    };
    while extent.goes_on(&report) {
        let folder = scratch.join("run");
        match one_run(driver, &folder, longest, ends, &mut case, &extent, &mut report) {
            Ok(()) => ends += 1,
            Err(reason) => report.failures.push(format!("kill {case}: {reason}")),
        }
    }
    report.note = format!("{ends} runs came to their end in between");
    report
}

/// One run from its beginning to its end, through as many kills as meet it.
fn one_run(
    driver: &Path,
    folder: &Path,
    longest: Duration,
    run: u64,
    case: &mut u64,
    extent: &Extent,
    report: &mut Report,
) -> Result<(), String> {
    clear(folder)?;
    let mut scene = match run % 3 {
        0 => Scene::prepared(driver, folder)?,
        _ => Scene::new(driver, folder, 24, 1 + (run % 2) as usize),
    };
    // The prepared run has a third of the steps; some lives are to come to their end.
    let longest = if scene.known.saved.is_some() { longest / 2 } else { longest * 3 / 2 };
    if run.is_multiple_of(16) {
        a_second_writer_is_refused(&scene)?;
    }
    for life in 0u32.. {
        if !extent.goes_on(report) {
            return scene.finish();
        }
        // Each life is of another build, so that it saves the checkpoint again that it continues from.
        scene.plan.build = format!("{run}.{life}");
        let mut child = scene.start()?;
        // Longer and longer, as a disk may be slower than when the time was taken: each run is to come to its end.
        let longest = longest * (4 + life) / 4;
        std::thread::sleep(Duration::from_micros(draw(ROW, *case, &scene.plan.build, longest.as_micros() as u64)));
        let _ = child.kill();
        let end = wait(child)?;
        scene.known.hear(&end.output)?;
        match end.status.code() {
            None if end.was_killed() => {
                let killed = *case;
                *case += 1;
                report.tried += 1;
                scene.check().map_err(|reason| format!("(after kill {killed}) {reason}"))?;
            }
            Some(0) => return scene.check_end(),
            _ => return Err(format!("it ended with {}: {}", end.status, end.errors.trim())),
        }
    }
    unreachable!("the numbers of lives do not run out")
}

/// Time of a life that nothing disturbs.
fn undisturbed_time(driver: &Path, folder: &Path) -> Result<Duration, String> {
    clear(folder)?;
    let mut scene = Scene::new(driver, folder, 24, 2);
    let began = Instant::now();
    scene.finish()?;
    Ok(began.elapsed())
}

/// While one run works in a folder, a second one says by whom it is used and touches nothing.
fn a_second_writer_is_refused(scene: &Scene) -> Result<(), String> {
    let slow = Scene { pace: 500, ..scene.clone() };
    let mut first = slow.start()?;
    let mut line = String::new();
    if let Some(output) = first.stdout.take() {
        let _ = BufReader::new(output).read_line(&mut line);
    }
    let second = wait(scene.start()?);
    let owner = format!("is in use by another run (process {})", first.id());
    let _ = first.kill();
    let _ = first.wait();
    let second = second?;
    match line.trim() == "locked" && second.status.code() == Some(9) && second.errors.contains(&owner) {
        true => Ok(()),
        false => Err(format!("a second run ended with {}: {}", second.status, second.errors.trim())),
    }
}
