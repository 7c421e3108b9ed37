//! (b) SIGKILL, and (c) the errors of failing disks, at every file-system call of the driver, by `strace -e inject`.
//! open_lm#154, draw-things#88: half a file is left, and the exit code is 0. transformers#9732: ESTALE in the midst of a save.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::scene::{End, Scene, copy_folder, start, wait};
use crate::{Extent, Report};

/// Every call by which the driver can reach a file system.
pub(crate) const CALLS: &str = "openat,read,write,pread64,pwrite64,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,\
                     unlinkat,rmdir,ftruncate,fallocate,flock,getdents64,statx,fstat,newfstatat,statfs,fstatfs,lseek,\
                     copy_file_range";

/// What disks say that fail, with the number that Linux gives it.
pub const ERRORS: [(&str, i32); 8] = [
    ("ENOSPC", 28),
    ("EDQUOT", 122),
    ("EIO", 5),
    ("ESTALE", 116),
    ("EROFS", 30),
    ("EACCES", 13),
    ("EMFILE", 24),
    ("ETIMEDOUT", 110),
];

/// The n-th call of a name.
#[derive(Clone, Debug)]
struct Point {
    call: String,
    number: u64,
    /// On the run's folder; others load the program or speak to the harness.
    is_of_the_run: bool,
}

/// Kills at every call, in folders below `scratch`.
pub fn kills_at_calls(driver: &Path, scratch: &Path, extent: Extent) -> Report {
    sweep(driver, scratch, extent, |points| {
        // What the loader reads before `main` is the same each time.
        points.into_iter().map(|point| (point, "signal=KILL".to_owned(), None)).collect()
    })
}

/// Fails every call, once and from then on, with each of the first `errors` of [`ERRORS`].
pub fn errors_at_calls(driver: &Path, scratch: &Path, errors: usize, extent: Extent) -> Report {
    sweep(driver, scratch, extent, |points| {
        let mut cases = Vec::new();
        for (error, number) in &ERRORS[..errors.min(ERRORS.len())] {
            for (repeat, ever) in [("", false), ("+", true)] {
                for point in points.iter().filter(|point| point.is_of_the_run) {
                    let point = Point { call: point.call.clone(), ..*point };
                    cases.push((point, format!("error={error}"), Some((*number, repeat, ever))));
                }
            }
        }
        cases
    })
}

type Case = (Point, String, Option<(i32, &'static str, bool)>);

fn sweep(driver: &Path, scratch: &Path, extent: Extent, cases: impl FnOnce(Vec<Point>) -> Vec<Case>) -> Report {
    if let Err(reason) = can_trace() {
        return Report::skipped(reason);
    }
    let mut report = Report::default();
    let (template, folder) = (scratch.join("template"), scratch.join("run"));
    let prepared = crate::scene::clear(&template)
        .and_then(|()| Scene::prepared(driver, &template))
        .and_then(|scene| copy_folder(&template, &folder).map(|()| Scene { folder: folder.clone(), ..scene }))
        .and_then(|scene| points(&scene, scratch).map(|points| (scene, points)));
    let (scene, points) = match prepared {
        Ok(prepared) => prepared,
        Err(reason) => {
            report.failures.push(reason);
            return report;
        }
    };
    let of_the_run = points.iter().filter(|point| point.is_of_the_run).count();
    let (all, cases) = (points.len(), cases(points));
    report.note = format!("{} cases at {all} calls of the process, {of_the_run} of them on its folder", cases.len());
    // A shorter form takes some of every kind.
    let left = (cases.len() as u64).saturating_sub(extent.from);
    let stride = left.checked_div(extent.count).unwrap_or_default().max(1);
    for (point, fault, error) in cases.iter().skip(extent.from as usize).step_by(stride as usize) {
        if !extent.goes_on(&report) {
            break;
        }
        let what = format!("{fault} at {} {}{}", point.call, point.number, error.map_or("", |error| error.1));
        let result = one_case(&scene, &template, point, fault, *error);
        report.tried(|| what, result);
    }
    report
}

fn one_case(
    scene: &Scene,
    template: &Path,
    point: &Point,
    fault: &str,
    error: Option<(i32, &str, bool)>,
) -> Result<(), String> {
    copy_folder(template, &scene.folder)?;
    let mut scene = scene.clone();
    let repeat = error.map_or("", |error| error.1);
    let inject = format!("inject={}:{fault}:when={}{repeat}", point.call, point.number);
    let only = format!("trace={}", point.call);
    let tracer = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &only, "-e", &inject].map(OsStr::new);
    let end = wait(start(scene.command(&tracer))?)?;
    scene.known.hear(&end.output)?;
    scene.known.lost_metrics = end.errors.contains("warning: ");
    match error {
        None if !end.was_killed() => return Err(format!("it was not killed: {} {}", end.status, end.errors.trim())),
        None => (),
        Some((number, _, ever)) => says_what_failed(&scene, &end, &point.call, number, ever)?,
    }
    scene.check()?;
    scene.finish()
}

/// A run that a disk stopped ends with 7 and a message that names the path and the disk's reason, and has cleared its attempt away.
fn says_what_failed(scene: &Scene, end: &End, call: &str, number: i32, ever: bool) -> Result<(), String> {
    let said = end.errors.trim();
    match end.status.code() {
        Some(0) if scene.known.finished => Ok(()),
        Some(7) => {
            let reason = std::io::Error::from_raw_os_error(number).to_string();
            // `create_dir_all` of the standard library says "File exists" of a folder that it cannot look at.
            let gives_reason = said.contains(&reason) || call == "statx" && said.contains("File exists");
            let names_both = said.contains(&*scene.folder.to_string_lossy()) && gives_reason;
            // Where every further write fails, none reaches the standard error either.
            let can_speak = !(ever && call == "write");
            if can_speak && (!said.contains("error: ") || !names_both) {
                return Err(format!("the message lacks the path or `{reason}`: {said}"));
            }
            let checkpoints = fs::read_dir(scene.folder.join("checkpoints")).into_iter().flatten().flatten();
            let names = checkpoints.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let left: Vec<String> =
                names.filter(|name| name.starts_with(".tmp-step-10") || name.starts_with(".tmp-step-9")).collect();
            match ever || left.is_empty() {
                true => Ok(()),
                false => Err(format!("the attempt was not cleared away: {left:?}")),
            }
        }
        _ => Err(format!("it ended with {}: {said}", end.status)),
    }
}

/// All calls of a life that nothing disturbs.
fn points(scene: &Scene, scratch: &Path) -> Result<Vec<Point>, String> {
    let trace = scratch.join("calls.txt");
    let (only, trace_path) = (format!("trace={CALLS}"), trace.to_string_lossy());
    let tracer = ["strace", "-f", "-qqq", "-y", "-o", &*trace_path, "-e", &only].map(OsStr::new);
    let mut scene = scene.clone();
    let end = wait(start(scene.command(&tracer))?)?;
    scene.known.hear(&end.output)?;
    if end.status.code() != Some(0) {
        return Err(format!("a traced run ended with {}: {}", end.status, end.errors.trim()));
    }
    scene.check_end()?;
    let text = fs::read_to_string(&trace).map_err(|error| format!("cannot read `{}`: {error}", trace.display()))?;
    let folder = scene.folder.to_string_lossy();
    let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
    let mut points = Vec::new();
    for line in text.lines() {
        // `4711 openat(AT_FDCWD</somewhere>, "…", …) = 3</…>`
        let Some(call) = line.split_once('(').and_then(|(start, _)| start.split_whitespace().last()) else { continue };
        let number = numbers.entry(call).or_default();
        *number += 1;
        points.push(Point { call: call.to_owned(), number: *number, is_of_the_run: line.contains(&*folder) });
    }
    Ok(points)
}

/// Whether `strace` is here and may inject.
pub(crate) fn can_trace() -> Result<(), String> {
    let probe = ["-qqq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1", "true"];
    let mut command = Command::new("strace");
    command.args(probe).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`strace` may not trace here ({status})")),
        Err(_) => Err("`strace` is not installed".to_owned()),
    }
}
