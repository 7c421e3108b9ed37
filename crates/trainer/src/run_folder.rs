//! The output folder of a run: who may write to it, and whether there is a run to continue.

use crate::error::{Error, Result};
use sdtrain_checkpoint::{FolderLock, Survey, recover, replace_file, verify, vfs::RealVfs};
use sdtrain_files::{free_space, in_words};
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
    /// Later checkpoints that are not whole, with the reason: their steps are done again.
    pub passed_over: Vec<(PathBuf, String)>,
    /// Checkpoints of later steps than this are not of the run that begins.
    newest: Option<u64>,
    _lock: FolderLock,
}

const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";
const SET_ASIDE: &str = "checkpoints-set-aside";

impl RunFolder {
    /// Takes the folder for a run of `config` and finds out where it begins.
    pub fn open(config: &TrainConfig, path: &Path, policy: &ResumePolicy) -> Result<RunFolder> {
        let mut lock = FolderLock::acquire(path)?;
        if *policy == ResumePolicy::Never && path.join(CONFIG).exists() {
            move_aside(path)?;
            lock = FolderLock::acquire(path)?;
        }
        let survey = match recover(&path.join(CHECKPOINTS)) {
            // Nothing is to be continued from them.
            Err(sdtrain_checkpoint::Error::NoneWhole { .. })
                if is_finished(path) || matches!(policy, ResumePolicy::From(_)) =>
            {
                Survey::default()
            }
            survey => survey?,
        };
        let latest = survey.newest;
        // A run that left neither checkpoint nor product has nothing to protect.
        let has_results = latest.is_some() || is_finished(path) || has_product(path);
        if path.join(CONFIG).exists() && has_results {
            check_same_run(config, path)?;
        }
        let (start, newest) = match policy {
            ResumePolicy::From(checkpoint) => {
                let step = verify(checkpoint)?.info.step;
                (Start::Continue(checkpoint.clone()), Some(step))
            }
            _ if is_finished(path) => (Start::Finished, None),
            _ => (latest.map_or(Start::Fresh, |(checkpoint, _)| Start::Continue(checkpoint)), None),
        };
        Ok(RunFolder { path: path.to_path_buf(), start, passed_over: survey.rejected, newest, _lock: lock })
    }

    /// Refuses a disk that cannot even hold the trained weights once, which are the smaller part of a checkpoint.
    pub fn check_room(&self, weights: u64) -> Result<()> {
        match free_space(&self.path) {
            Some(free) if free < weights => Err(Error::storage(
                &self.path,
                format!("the disk has {} left, and a checkpoint takes more than {}", in_words(free), in_words(weights)),
            )),
            _ => Ok(()),
        }
    }

    /// Writes the resolved configuration: from here on the folder belongs to this run. Called when everything that can
    /// be wrong with model and data has been looked at, so that a run that never began does not stand in another's way.
    pub fn claim(&self, config: &TrainConfig) -> Result<()> {
        self.set_newer_aside()?;
        Ok(replace_file(&RealVfs, &self.path.join(CONFIG), config.to_toml().as_bytes())?)
    }

    /// Moves the checkpoints after the one that was asked for out of the way: the next start must not take them for this
    /// run's, nor may this run's be deleted for being older.
    fn set_newer_aside(&self) -> Result<()> {
        let Some(newest) = self.newest else { return Ok(()) };
        let folder = self.checkpoints();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
            if step.is_none_or(|step| step <= newest) {
                continue;
            }
            let aside = self.path.join(SET_ASIDE);
            fs::create_dir_all(&aside).map_err(|error| Error::storage(&aside, error))?;
            let target = free_name(&aside.join(name));
            fs::rename(entry.path(), &target).map_err(|error| Error::storage(&target, error))?;
        }
        Ok(())
    }

    /// Where checkpoints are published.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }
}

/// The same configuration gives the same run; keys that only say what is written down about it, or what `dataset clean`
/// would take out, may differ.
fn check_same_run(config: &TrainConfig, folder: &Path) -> Result<()> {
    let path = folder.join(CONFIG);
    // What it names may have been moved since: only its values count.
    let before =
        TrainConfig::load_what_fits(&path, &[]).ok().and_then(|parsed| parsed.value).ok_or_else(|| Error::Config {
            message: format!("`{}` cannot be read, so nobody can tell whether this is the same run", path.display()),
            hint: Some("give the run another `name`, or `--resume never` to move the old folder aside".into()),
        })?;
    let before = before.config;
    let keys: Vec<String> = before
        .differing_keys(config)
        .into_iter()
        .filter(|key| !["log.", "data.clean."].iter().any(|section| key.starts_with(section)))
        .filter(|key| !["debug.trace", "debug.trace_steps"].contains(&key.as_str()))
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

/// Whether a model or adapter lies in the folder.
fn has_product(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        path.extension().is_some_and(|ending| ending == "safetensors") || path.join("model_index.json").is_file()
    })
}

/// `NAME` becomes `NAME.1`, or the first number that is free.
fn move_aside(folder: &Path) -> Result<()> {
    let target = free_name(folder);
    fs::rename(folder, &target).map_err(|error| Error::storage(folder, error))
}

/// `path` with the first number behind it that is free.
fn free_name(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (1u32..)
        .map(|number| path.with_file_name(format!("{name}.{number}")))
        .find(|target| !target.exists())
        .expect("numbers do not run out")
}
