//! (a) SIGKILL of the whole program at random moments, on the tiny built-in base: the product is the same bits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::draw::draw;
use crate::scene::{clear, start, wait};
use crate::{Extent, Report};

const ROW: &str = "program";

/// Kills `program` (`sdtrain`), which trains with the configuration of this repository that is called `tiny_cpu`.
pub fn kills_of_the_program(program: &Path, repository: &Path, scratch: &Path, extent: Extent) -> Report {
    let mut report = Report::default();
    let train = |folder: &Path| {
        let mut command = Command::new(program);
        command.arg("train").arg("--config").arg(repository.join("configs/tiny_cpu.toml"));
        for setting in ["train.max_steps=30", "checkpoint.every_steps=2", "samples.prompts=[]", "train.threads=1"] {
            command.args(["--set", setting]);
        }
        command.arg("--output").arg(folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let straight = scratch.join("straight");
    let began = Instant::now();
    let undisturbed =
        clear(scratch).and_then(|()| wait(start(train(&straight))?)).and_then(|end| match end.status.code() {
            Some(0) => products(&straight),
            _ => Err(format!("a run that nothing disturbs ended with {}: {}", end.status, end.errors.trim())),
        });
    let longest = began.elapsed();
    let undisturbed = match undisturbed {
        Ok(products) => products,
        Err(reason) => {
            report.failures.push(reason);
            return report;
        }
    };
    let mut ends = 0u64;
    let mut case = extent.from;
    while extent.goes_on(&report) {
        let folder = scratch.join("killed");
        let ended = one_run(&train, &folder, longest, ends, &mut case, &extent, &mut report).and_then(|()| {
            ends += 1;
            match products(&folder)? == undisturbed {
                true => Ok(()),
                false => Err("the product has other bits".to_owned()),
            }
        });
        if let Err(reason) = ended {
            report.failures.push(format!("before kill {case}: {reason}"));
        }
    }
    report.note = format!("{ends} runs came to the bits of the run that nothing disturbed");
    report
}

fn one_run(
    train: &dyn Fn(&Path) -> Command,
    folder: &Path,
    longest: Duration,
    run: u64,
    case: &mut u64,
    extent: &Extent,
    report: &mut Report,
) -> Result<(), String> {
    let _ = fs::remove_dir_all(folder);
    loop {
        let mut child = start(train(folder))?;
        // The last run is let through, so that the bits after the last kill are looked at too.
        if extent.goes_on(report) {
            std::thread::sleep(Duration::from_micros(draw(ROW, *case, &run.to_string(), longest.as_micros() as u64)));
            let _ = child.kill();
        }
        let end = wait(child)?;
        match end.status.code() {
            None if end.was_killed() => {
                *case += 1;
                report.tried += 1;
            }
            Some(0) => return Ok(()),
            _ => return Err(format!("it ended with {}: {}", end.status, end.errors.trim())),
        }
    }
}

/// Name and content of every model file of a run.
fn products(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
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
