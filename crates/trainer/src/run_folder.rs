//! The output folder of a run: who may write to it, and whether there is a run to continue.

use crate::error::{Error, Result};
use sdtrain_checkpoint::{FolderLock, latest_valid, replace_file, verify, vfs::RealVfs};
use sdtrain_recipe::TrainConfig;
use std::fs;
use std::path::{Path, PathBuf};

/// What to do with an output folder that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumePolicy {
    /// Continue an unfinished run of the same configuration; leave a finished one alone.
    Auto,
    /// Move the folder aside and start anew.
    Never,
    /// Continue from this checkpoint.
    From(PathBuf),
}

/// Where a run begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the first step.
    Fresh,
    /// After the step of this checkpoint.
    Continue(PathBuf),
    /// Nowhere: everything is done.
    Finished,
}

/// The output folder, held against other writers as long as this lives.
pub(crate) struct RunFolder {
    pub path: PathBuf,
    pub start: Start,
    _lock: FolderLock,
}

const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";

impl RunFolder {
    /// Takes the folder for a run of `config` and finds out where it begins.
    pub fn open(config: &TrainConfig, path: &Path, policy: &ResumePolicy) -> Result<RunFolder> {
        let mut lock = FolderLock::acquire(path)?;
        if *policy == ResumePolicy::Never && path.join(CONFIG).exists() {
            move_aside(path)?;
            lock = FolderLock::acquire(path)?;
        }
        let start = match policy {
            ResumePolicy::From(checkpoint) => {
                verify(checkpoint)?;
                Start::Continue(checkpoint.clone())
            }
            _ if !path.join(CONFIG).exists() => Start::Fresh,
            _ => {
                check_same_run(config, path)?;
                match (is_finished(path), latest_valid(&path.join(CHECKPOINTS))?) {
                    (true, _) => Start::Finished,
                    (false, Some((checkpoint, _))) => Start::Continue(checkpoint),
                    (false, None) => Start::Fresh,
                }
            }
        };
        Ok(RunFolder { path: path.to_path_buf(), start, _lock: lock })
    }

    /// Writes the resolved configuration: from here on the folder belongs to this run. Called when everything that can
    /// be wrong with model and data has been looked at, so that a run that never began does not stand in another's way.
    pub fn claim(&self, config: &TrainConfig) -> Result<()> {
        Ok(replace_file(&RealVfs, &self.path.join(CONFIG), config.to_toml().as_bytes())?)
    }

    /// Where checkpoints are published.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }
}

/// The same configuration gives the same run; keys that only say what is written down about it may differ.
fn check_same_run(config: &TrainConfig, folder: &Path) -> Result<()> {
    let other =
        || Error::OtherRun { folder: folder.to_path_buf(), keys: vec!["its config.toml cannot be read".into()] };
    let before = TrainConfig::load(&folder.join(CONFIG), &[]).map_err(|_| other())?.config;
    let keys: Vec<String> = before
        .differing_keys(config)
        .into_iter()
        .filter(|key| !key.starts_with("log.") && !key.starts_with("debug."))
        .collect();
    match keys.is_empty() {
        true => Ok(()),
        false => Err(Error::OtherRun { folder: folder.to_path_buf(), keys }),
    }
}

fn is_finished(folder: &Path) -> bool {
    let record = fs::read(folder.join("run.json")).ok();
    let record: Option<serde_json::Value> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    record.is_some_and(|record| record["outcome"] == "finished")
}

/// `NAME` becomes `NAME.1`, or the first number that is free.
fn move_aside(folder: &Path) -> Result<()> {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let target = (1u32..)
        .map(|number| folder.with_file_name(format!("{name}.{number}")))
        .find(|target| !target.exists())
        .expect("numbers do not run out");
    fs::rename(folder, &target).map_err(|error| Error::storage(folder, error))
}
