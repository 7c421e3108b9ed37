//! (e) The states that a disk may be in after a power cut, and (c) failing calls, in memory: thousands a second.
//! open_lm#154, draw-things#88: half a file is left, and the exit code is 0.

use std::collections::HashSet;
use std::path::Path;

use sdtrain_checkpoint::recover_with;
use sdtrain_checkpoint::vfs::{CrashVfs, FaultVfs, Repeat, Survives, Vfs};

use crate::calls::ERRORS;
use crate::draw::draw;
use crate::oracle::{Acknowledged, check, check_end, check_latest};
use crate::run::{FIRST, Failure, Plan, STATE, Surroundings, live, name};
use crate::{Extent, Report};

const ROW: &str = "states";
/// Mixtures of what was not forced to disk, besides the corners, at each call.
const MIXTURES: u64 = 27;

fn folder() -> &'static Path {
    Path::new("outputs/run")
}

fn plan(case: u64) -> Plan {
    Plan { steps: 8, every: 2, keep_last: 1 + (case % 2) as usize, build: case.to_string() }
}

/// Collects what a run in memory says.
#[derive(Default)]
struct Listener {
    said: String,
}

impl Surroundings for Listener {
    fn begin(&mut self, _: Option<u64>) -> Result<(), Failure> {
        Ok(())
    }
    fn step(&mut self, _: u64) -> Result<(), Failure> {
        Ok(())
    }
    fn say(&mut self, line: &str) {
        self.said.push_str(line);
        self.said.push('\n');
    }
}

fn life(vfs: &dyn Vfs, plan: &Plan, known: &mut Acknowledged) -> Result<Result<(), Failure>, String> {
    let mut listener = Listener::default();
    let ended = live(vfs, folder(), plan, &mut listener);
    known.hear(&listener.said)?;
    Ok(ended)
}

/// Kinds of histories, which take turns.
const KINDS: u64 = 6;
/// Of the calls of a history every so many are cut at; the next turn of its kind takes the calls between.
const STRIDE: u64 = 4;

/// A disk that has lived through something, and what was acknowledged on it.
fn disk(history: u64) -> Result<(CrashVfs, Acknowledged), String> {
    let vfs = CrashVfs::new();
    let made = vfs.create_folder(Path::new("outputs")).and_then(|()| vfs.create_folder(folder()));
    made.map_err(|error| error.to_string())?;
    // The lock makes the run's folder durable; see `FolderLock::acquire`.
    let synced = vfs.sync_folder(Path::new("")).and_then(|()| vfs.sync_folder(Path::new("outputs")));
    synced.map_err(|error| error.to_string())?;
    let mut known = Acknowledged::default();
    match history % KINDS {
        // Nothing yet.
        0 => (),
        // Killed somewhere, while the machine went on: once, twice or three times in a row.
        1 => {
            for life in 0..=history / KINDS % 3 {
                kill(&vfs, history, 1 + draw(ROW, history, &format!("kill {life}"), 400), &mut known)?;
            }
        }
        // Killed between saving and pruning, the newest checkpoint then damaged by the disk.
        2 => {
            let before = Plan { steps: 4, keep_last: 2, ..plan(history) };
            life(&vfs, &before, &mut known)?.map_err(|failure| failure.to_string())?;
            let newest = folder().join("checkpoints").join(name(FIRST + 4)).join(STATE);
            vfs.damage(&newest, 40, 1).map_err(|error| error.to_string())?;
            let removed = vfs.remove_file(&folder().join(crate::run::PRODUCT)).and_then(|()| vfs.sync_folder(folder()));
            removed.map_err(|error| error.to_string())?;
            known = Acknowledged { saved: Some(FIRST + 2), damaged: Some(FIRST + 4), ..Acknowledged::default() };
        }
        // Through once; now another build saves the last checkpoint again.
        3 => life(&vfs, &plan(history + KINDS), &mut known)?.map_err(|failure| failure.to_string())?,
        // Killed while a checkpoint that is being deleted has another name, perhaps not on the disk yet.
        4 => kill_while_there_is(".trash-", &vfs, history, &mut known)?,
        // Through once; another build then was killed while the old last checkpoint was set aside for its own.
        _ => {
            life(&vfs, &plan(history + KINDS), &mut known)?.map_err(|failure| failure.to_string())?;
            kill_while_there_is(".replaced-", &vfs, history + 2 * KINDS, &mut known)?;
        }
    }
    vfs.cut_power_at(u64::MAX);
    Ok((vfs, known))
}

/// Lets a run live until a call, after which the machine goes on.
fn kill(vfs: &CrashVfs, history: u64, call: u64, known: &mut Acknowledged) -> Result<(), String> {
    vfs.cut_power_at(call);
    let _ = life(vfs, &plan(history + KINDS), known)?;
    vfs.cut_power_at(u64::MAX);
    Ok(())
}

/// Kills a run at one of the calls at which a folder has a name that begins so.
fn kill_while_there_is(prefix: &str, vfs: &CrashVfs, history: u64, known: &mut Acknowledged) -> Result<(), String> {
    let calls = {
        let whole = vfs.copy();
        whole.cut_power_at(u64::MAX);
        life(&whole, &plan(history + KINDS), &mut known.clone())?.map_err(|failure| failure.to_string())?;
        whole.calls()
    };
    let mut found = Vec::new();
    for call in 1..=calls {
        let tried = vfs.copy();
        kill(&tried, history, call, &mut known.clone())?;
        let entries = tried.list(&folder().join("checkpoints")).unwrap_or_default();
        if entries.iter().any(|entry| entry.name.starts_with(prefix)) {
            found.push(call);
        }
    }
    let call = found.get(draw(ROW, history, prefix, found.len() as u64) as usize);
    kill(vfs, history, *call.ok_or_else(|| format!("nothing is ever called `{prefix}…`"))?, known)
}

/// Looks at states of the disk after power cuts at the calls of a run, one history after another.
pub fn power_cut_states(extent: Extent) -> Report {
    let mut report = Report::default();
    let mut distinct = HashSet::new();
    // So many states as were looked at on other days are about so many histories.
    for history in extent.from / 2_500.. {
        if !extent.goes_on(&report) {
            break;
        }
        if let Err(reason) = one_history(history, &extent, &mut report, &mut distinct) {
            report.failures.push(format!("history {history}: {reason}"));
        }
    }
    report.note = format!("{} of them distinct", distinct.len());
    report
}

fn one_history(history: u64, extent: &Extent, report: &mut Report, distinct: &mut HashSet<u64>) -> Result<(), String> {
    let (base, known) = disk(history)?;
    for call in (1 + history / KINDS % STRIDE..).step_by(STRIDE as usize) {
        let (vfs, mut known) = (base.copy(), known.clone());
        vfs.cut_power_at(call);
        let ended = life(&vfs, &plan(history), &mut known)?;
        let corners = Survives::CORNERS.into_iter();
        let mixtures =
            (0..MIXTURES).map(|index| Survives::Mixture(draw(ROW, history, &format!("{call}/{index}"), u64::MAX)));
        for survives in corners.chain(mixtures) {
            if !extent.goes_on(report) {
                return Ok(());
            }
            let after = vfs.after_power_cut(survives);
            let digest = after.digest();
            distinct.insert(u64::from_le_bytes(*digest.first_chunk().expect("a digest has 32 bytes")));
            let result = one_state(&after, &known, history, report.tried);
            report.tried(|| format!("history {history}, cut at call {call}, {survives:?} survives"), result);
        }
        if ended.is_ok() {
            return Ok(());
        }
    }
    unreachable!("every run ends")
}

/// A state must hold what was acknowledged, and be one that a run can go on from; sometimes it does, through another power cut.
fn one_state(after: &CrashVfs, known: &Acknowledged, history: u64, number: u64) -> Result<(), String> {
    let mut known = Acknowledged { lost_power: true, ..known.clone() };
    let newest = check(after, folder(), &known, &plan(history))?;
    let recovered = after.copy();
    let survey =
        recover_with(&recovered, &folder().join("checkpoints")).map_err(|error| format!("recovery: {error}"))?;
    let found = survey.newest.map(|(_, manifest)| manifest.info.step);
    if found != newest {
        return Err(format!("the newest is {newest:?}, and recovery found {found:?}"));
    }
    newest.map_or(Ok(()), |newest| check_latest(&recovered, folder(), newest))?;
    if number.is_multiple_of(16) {
        let again = Plan { build: "again".to_owned(), ..plan(history) };
        after.cut_power_at(1 + draw(ROW, number, "second cut", 300));
        let _ = life(after, &again, &mut known)?;
        let second = after.after_power_cut(Survives::Mixture(number));
        check(&second, folder(), &known, &again).map_err(|reason| format!("after a second cut: {reason}"))?;
        let ended = life(&second, &Plan { build: "end".to_owned(), ..again.clone() }, &mut known)?;
        ended.map_err(|failure| format!("the run cannot go on: {failure}"))?;
        check_end(&second, folder(), &known, &again)?;
    }
    Ok(())
}

/// Fails every call of a run in memory, once and from then on, with each of the first `errors` of [`ERRORS`].
pub fn errors_in_memory(errors: usize, extent: Extent) -> Report {
    let mut report = Report::default();
    let mut skip = extent.from;
    for history in 0..KINDS {
        let counted = disk(history).and_then(|(base, known)| {
            let counting = FaultVfs::counting(base.copy());
            life(&counting, &plan(history), &mut known.clone())?.map_err(|failure| failure.to_string())?;
            Ok((base, known, counting.calls()))
        });
        let (base, known, calls) = match counted {
            Ok(counted) => counted,
            Err(reason) => {
                report.failures.push(format!("history {history}: {reason}"));
                continue;
            }
        };
        for (name, number) in &ERRORS[..errors.min(ERRORS.len())] {
            for repeat in [Repeat::Once, Repeat::Always] {
                for call in 1..=calls {
                    if skip > 0 {
                        skip -= 1;
                        continue;
                    }
                    if !extent.goes_on(&report) {
                        return report;
                    }
                    let disk = (base.copy(), known.clone());
                    let result = one_error(disk, &plan(history), call, *number, repeat);
                    report.tried(|| format!("history {history}, {name} at call {call}, {repeat:?}"), result);
                }
            }
        }
    }
    report
}

fn one_error(
    (vfs, mut known): (CrashVfs, Acknowledged),
    plan: &Plan,
    call: u64,
    error: i32,
    repeat: Repeat,
) -> Result<(), String> {
    let was_left_before = has_attempt(&vfs);
    let ended = life(&FaultVfs::new(vfs.clone(), call, error, repeat), plan, &mut known)?;
    if let Err(failure) = ended {
        let (said, reason) = (failure.to_string(), std::io::Error::from_raw_os_error(error).to_string());
        if failure.exit_code() != 7 || !said.contains("outputs") || !said.contains(&reason) {
            return Err(format!("it ended with {}: {said}", failure.exit_code()));
        }
        if repeat == Repeat::Once && has_attempt(&vfs) && !was_left_before {
            return Err("the attempt was not cleared away".to_owned());
        }
    }
    check(&vfs, folder(), &known, plan)?;
    // What was acknowledged in spite of the error must outlast the memory, too.
    let cut = vfs.after_power_cut(Survives::Synced);
    check(&cut, folder(), &Acknowledged { lost_power: true, ..known.clone() }, plan)
        .map_err(|reason| format!("after a power cut behind the error: {reason}"))?;
    let end = Plan { build: "end".to_owned(), ..plan.clone() };
    life(&vfs, &end, &mut known)?.map_err(|failure| format!("the run cannot go on: {failure}"))?;
    check_end(&vfs, folder(), &known, plan)
}

/// Whether a half-written checkpoint lies there.
fn has_attempt(vfs: &CrashVfs) -> bool {
    let entries = vfs.list(&folder().join("checkpoints")).unwrap_or_default();
    entries.iter().any(|entry| entry.name.starts_with(".tmp-step-"))
}
