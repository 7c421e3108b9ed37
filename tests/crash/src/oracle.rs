//! What must hold after whatever happened. Reads bytes itself: a reader with a bug must not judge its own writer.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use sdtrain_checkpoint::vfs::Vfs;
use serde_json::Value as Json;

use crate::run::{self, EMPTY, PRODUCT, Plan, SMALL, STATE, name};

/// What a run has acknowledged, over all of its lives.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    /// The newest step that was said to be saved.
    pub saved: Option<u64>,
    /// The product was said to be complete.
    pub finished: bool,
    /// A step whose checkpoint a failing disk damaged before the run began.
    pub damaged: Option<u64>,
    /// The machine lost power, so entries of the cache may be damaged and metrics lost; both are made again.
    pub lost_power: bool,
    /// A disk refused metrics, which is a warning and no more.
    pub lost_metrics: bool,
}

impl Acknowledged {
    /// Takes in what one life said. An error where it contradicts what is known.
    pub fn hear(&mut self, output: &str) -> Result<(), String> {
        let before = self.saved;
        // A line without its end was not said.
        for line in output.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let number = |text: &str| text.parse::<u64>().map_err(|_| format!("the run said `{line}`"));
            if let Some(step) = line.strip_prefix("saved ") {
                let step = Some(number(step)?);
                self.saved = self.saved.max(step);
                // What took its place is as good as any other.
                self.damaged = self.damaged.filter(|_| self.damaged != step);
            } else if let Some(step) = line.strip_prefix("continuing after ") {
                if Some(number(step)?) < before {
                    return Err(format!("{line}, but step {} was saved", before.unwrap_or_default()));
                }
            } else if let Some(rest) = line.strip_prefix("passing over ") {
                if !self.damaged.is_some_and(|step| rest.starts_with(&name(step))) {
                    return Err(format!("a checkpoint that nothing damaged is not whole: {line}"));
                }
            } else if line.starts_with("damaged cache entry") {
                if !self.lost_power {
                    return Err(format!("without a power cut there was a {line}"));
                }
            } else if line == "beginning" {
                if let Some(step) = before {
                    return Err(format!("the run began anew, but step {step} was saved"));
                }
            } else if line == "finished" {
                self.finished = true;
            }
        }
        Ok(())
    }
}

/// Holds a run's folder against what was acknowledged; the newest whole step.
pub fn check(vfs: &dyn Vfs, folder: &Path, known: &Acknowledged, plan: &Plan) -> Result<Option<u64>, String> {
    let checkpoints = folder.join("checkpoints");
    let mut whole = BTreeSet::new();
    for entry in list(vfs, &checkpoints)?.iter().filter(|entry| entry.1) {
        let (set_aside, plain) = match entry.0.strip_prefix(".replaced-") {
            Some(name) => (true, name),
            None => (false, entry.0.as_str()),
        };
        if plain.starts_with('.') {
            continue;
        }
        let Some(step) = plain.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) else {
            return Err(format!("there is a folder `{plain}`"));
        };
        match is_whole(vfs, &checkpoints.join(&entry.0), step) {
            Ok(()) => {
                whole.insert(step);
            }
            Err(reason) if !set_aside && known.damaged != Some(step) => {
                return Err(format!("`{plain}` is not whole: {reason}"));
            }
            Err(_) => (),
        }
    }
    let newest = whole.last().copied();
    if newest < known.saved {
        return Err(format!(
            "step {} was saved, and {newest:?} is the newest there is",
            known.saved.unwrap_or_default()
        ));
    }
    if let Some(latest) = read(vfs, &checkpoints.join("latest"))? {
        let latest = String::from_utf8_lossy(&latest).into_owned();
        let step = latest.strip_prefix("step-").and_then(|step| step.strip_suffix('\n')?.parse::<u64>().ok());
        let is_there = step.is_some_and(|step| whole.contains(&step) || known.damaged == Some(step));
        if !is_there || step < known.saved {
            return Err(format!("`latest` names {latest:?}; whole are {whole:?}, saved was {:?}", known.saved));
        }
    } else if known.saved.is_some() {
        return Err("there is no `latest`".to_owned());
    }
    match read(vfs, &folder.join(PRODUCT))? {
        Some(bytes) if bytes != run::content(&run::state_after(plan.last())) => Err("the product is wrong".to_owned()),
        None if known.finished => Err("the product is gone".to_owned()),
        _ => Ok(newest),
    }
}

/// What must hold once a run took its folder: `latest` names the newest whole checkpoint.
pub fn check_latest(vfs: &dyn Vfs, folder: &Path, newest: u64) -> Result<(), String> {
    match read(vfs, &folder.join("checkpoints/latest"))? {
        Some(latest) if latest == format!("{}\n", run::name(newest)).as_bytes() => Ok(()),
        latest => Err(format!(
            "`latest` says {:?}, and the newest is of step {newest}",
            latest.map(|latest| String::from_utf8_lossy(&latest).into_owned())
        )),
    }
}

/// What must hold besides when a run came to its end: nothing left over, only as many checkpoints as are kept.
pub fn check_end(vfs: &dyn Vfs, folder: &Path, known: &Acknowledged, plan: &Plan) -> Result<(), String> {
    if !known.finished {
        return Err("the run did not say that it finished".to_owned());
    }
    let checkpoints = folder.join("checkpoints");
    if check(vfs, folder, known, plan)? != Some(plan.last() - plan.steps % plan.every) {
        return Err("the last checkpoint is not the one of the last step".to_owned());
    }
    check_latest(vfs, folder, plan.last() - plan.steps % plan.every)?;
    let left = list(vfs, &checkpoints)?.into_iter().chain(list(vfs, folder)?);
    let left: Vec<String> = left.map(|entry| entry.0).filter(|name| name.starts_with('.') && name != ".lock").collect();
    if !left.is_empty() {
        return Err(format!("left over: {left:?}"));
    }
    let kept = list(vfs, &checkpoints)?.into_iter().filter(|entry| entry.1).count();
    if kept > plan.keep_last {
        return Err(format!("{kept} checkpoints are left instead of {}", plan.keep_last));
    }
    Ok(())
}

/// Holds the metrics against what was acknowledged. They are not forced to disk, so a power cut may take some.
pub fn check_metrics(vfs: &dyn Vfs, folder: &Path, known: &Acknowledged, plan: &Plan) -> Result<(), String> {
    let text = read(vfs, &folder.join("metrics.jsonl"))?.unwrap_or_default();
    let mut steps = Vec::new();
    for line in text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        match serde_json::from_slice::<Json>(line).ok().and_then(|record| record["step"].as_u64()) {
            Some(step) => steps.push(step),
            None if known.lost_power => break,
            None => return Err(format!("metrics.jsonl has the line {:?}", String::from_utf8_lossy(line))),
        }
    }
    if !steps.is_sorted_by(|a, b| a < b) {
        return Err(format!("metrics.jsonl has the steps {steps:?}"));
    }
    let last = steps.last().copied().unwrap_or(run::FIRST);
    if known.lost_power || known.lost_metrics {
        return Ok(());
    }
    if known.finished && last != plan.last() || Some(last) < known.saved {
        return Err(format!("metrics.jsonl ends with step {last}"));
    }
    let is_complete = steps.iter().zip(run::FIRST + 1..).all(|(step, expected)| *step == expected);
    if is_complete { Ok(()) } else { Err(format!("metrics.jsonl leaves out steps: {steps:?}")) }
}

fn is_whole(vfs: &dyn Vfs, folder: &Path, step: u64) -> Result<(), String> {
    let files = [(EMPTY, Vec::new()), (SMALL, run::small(step)), (STATE, run::content(&run::state_after(step)))];
    let manifest = read(vfs, &folder.join("MANIFEST.json"))?.ok_or("no manifest")?;
    let manifest: Json = serde_json::from_slice(&manifest).map_err(|error| format!("its manifest: {error}"))?;
    if manifest["info"]["step"] != step || manifest["files"].as_array().map(Vec::len) != Some(files.len()) {
        return Err("its manifest is of another checkpoint".to_owned());
    }
    for (index, (name, content)) in files.into_iter().enumerate() {
        let listed = &manifest["files"][index];
        let hash = blake3::hash(&content).to_hex().to_string();
        if listed["name"] != name || listed["length"] != content.len() || listed["blake3"] != hash.as_str() {
            return Err(format!("its manifest is wrong about `{name}`"));
        }
        if read(vfs, &folder.join(name))?.as_deref() != Some(&content[..]) {
            return Err(format!("`{name}` is not what was written"));
        }
    }
    match list(vfs, folder)?.len() {
        4 => Ok(()),
        other => Err(format!("it has {other} files")),
    }
}

fn list(vfs: &dyn Vfs, folder: &Path) -> Result<Vec<(String, bool)>, String> {
    if !vfs.exists(folder).map_err(|error| error.to_string())? {
        return Ok(Vec::new());
    }
    let entries = vfs.list(folder).map_err(|error| format!("cannot list `{}`: {error}", folder.display()))?;
    Ok(entries.into_iter().map(|entry| (entry.name, entry.is_folder)).collect())
}

fn read(vfs: &dyn Vfs, path: &Path) -> Result<Option<Vec<u8>>, String> {
    let cannot = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
    if !vfs.exists(path).map_err(cannot)? {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    vfs.open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(cannot)?;
    Ok(Some(bytes))
}
