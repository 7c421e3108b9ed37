//! The output folder of a run: who may write to it, and whether there is a run to continue.

mod going_back;
mod missed;

use crate::error::{Error, Result};
use crate::ranks::Ranks;
use crate::seeded_bugs::{Bug, seeded};
use sdtrain_checkpoint::vfs::{RealVfs, Vfs};
use sdtrain_checkpoint::{FolderLock, ManifestInfo, Survey, recover, replace_file, verify};
use sdtrain_files::{Unmovable, free_space, in_words};
use sdtrain_recipe::{Change, CheckpointConfig, TrainConfig, step_of_name};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use missed::Missed;
pub use missed::{has_all_steps, misses_product, with_kept_product};

/// What to do with an output folder that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumePolicy {
    /// Continue an unfinished run of the same configuration; leave a finished one alone that has its product.
    Auto,
    /// The same, and leave a finished one alone without its product too: what begins with that is done.
    LeaveFinished,
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
    Continue(Box<Saved>),
    /// Nowhere: everything is done.
    Finished,
}

/// A checkpoint that is whole, and what its manifest says of it: its content was hashed to know, which is done once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saved {
    pub folder: PathBuf,
    pub info: ManifestInfo,
}

impl Saved {
    /// The checkpoint in `folder`, with all hashes compared unless it is the `known` one.
    fn verified(folder: &Path, known: Option<&Saved>) -> Result<Saved> {
        let is_same = |known: &&Saved| {
            folder.canonicalize().ok().is_some_and(|path| Some(path) == known.folder.canonicalize().ok())
        };
        let info = match known.filter(is_same) {
            Some(known) => known.info.clone(),
            None => verify(folder)?.info,
        };
        Ok(Saved { folder: folder.to_path_buf(), info })
    }
}

/// The output folder, held against other writers as long as this lives.
pub(crate) struct RunFolder {
    pub path: PathBuf,
    pub start: Start,
    /// Checkpoints that are not whole and were looked at before one that is, with the reason: steps of later ones are done again.
    pub passed_over: Vec<(PathBuf, String)>,
    /// Keys that are not what they were when the run began, each allowed to be.
    pub changes: Vec<Change>,
    /// The checkpoint that the run was told to go back to, by its manifest: checkpoints and products of later steps are not of the run
    /// that begins.
    pub goes_back_to: Option<ManifestInfo>,
    /// Why a run that is finished goes on to write its product, if it is one.
    pub writes_again: Option<String>,
    // None for as long as it is taken again.
    lock: RefCell<Option<FolderLock>>,
    /// The number of the disk that it was taken on.
    disk: Cell<Option<u64>>,
    is_claimed: Cell<bool>,
}

/// The resolved configuration, in the folder of a run and in each of its checkpoints.
pub(crate) const CONFIG: &str = "config.toml";
const RECORD: &str = "run.json";
const CHECKPOINTS: &str = "checkpoints";
const SET_ASIDE: &str = "checkpoints-set-aside";
const RESERVE: &str = ".reserve";
/// What the name of a product begins with while it is being deleted.
const TRASH: &str = ".trash-";

impl RunFolder {
    /// Takes the folder for a run of `config` and finds out where it begins.
    pub fn open(config: &TrainConfig, path: &Path, policy: &ResumePolicy) -> Result<RunFolder> {
        let mut lock = FolderLock::acquire(path)?;
        if *policy == ResumePolicy::Never && [CONFIG, CHECKPOINTS].iter().any(|name| path.join(name).exists()) {
            move_aside(path)?;
            lock = FolderLock::acquire(path)?;
        }
        // What a run that was killed kept room with.
        let _ = fs::remove_file(path.join(RESERVE));
        clear_trash(path);
        let survey = match recover(&path.join(CHECKPOINTS)) {
            // Nothing is to be continued from them.
            Err(sdtrain_checkpoint::Error::NoneWhole { .. } | sdtrain_checkpoint::Error::Gone { .. })
                if is_finished(path) || matches!(policy, ResumePolicy::From(_)) =>
            {
                Survey::default()
            }
            survey => survey?,
        };
        let latest = survey.newest.map(|(folder, manifest)| Saved { folder, info: manifest.info });
        // A run that left neither checkpoint nor product has nothing to protect.
        let has_results = latest.is_some() || is_finished(path) || has_product(path);
        let own = Some(path.join(CONFIG)).filter(|own| has_results && own.exists());
        let (mut changes, mut writes_again) = (Vec::new(), None);
        let (start, goes_back_to) = match policy {
            ResumePolicy::From(checkpoint) => {
                let saved = Saved::verified(checkpoint, latest.as_ref())?;
                let began_with = config_of(checkpoint);
                // Another run's folder is no place to continue this one in.
                let is_inside = checkpoint.canonicalize().ok().zip(path.canonicalize().ok());
                let is_inside = is_inside.is_some_and(|(checkpoint, path)| checkpoint.starts_with(path));
                if let Some(own) = own.filter(|_| !is_inside || began_with.is_none()) {
                    changes_since(config, &own, path)?;
                }
                if let Some(began_with) = began_with {
                    changes = changes_since(config, &began_with, checkpoint)?;
                }
                let info = saved.info.clone();
                (Start::Continue(Box::new(saved)), Some(info))
            }
            _ => {
                let of_latest = latest.as_ref().and_then(|saved| config_of(&saved.folder));
                // The product of a finished one was written with the folder's.
                let began_with = if is_finished(path) { own.or(of_latest) } else { of_latest.or(own) };
                if is_finished(path) && began_with.is_none() {
                    return Err(unknown(&path.join(CONFIG)));
                }
                changes = began_with.map_or(Ok(Vec::new()), |file| changes_since(config, &file, path))?;
                let decisive = changes.iter().find(|change| change.decides_steps);
                if let (None, true, Some(change)) = (&latest, is_finished(path), decisive) {
                    return Err(nothing_to_prolong(path, change));
                }
                let is_over = is_finished(path) && decisive.is_none();
                let missed = match is_over && *policy != ResumePolicy::LeaveFinished {
                    true => Missed::of(config, path, &changes)?,
                    false => None,
                };
                writes_again = match (&missed, &latest) {
                    (None, _) => None,
                    (Some(missed), Some(saved)) => Some(missed.written_from(path, saved)),
                    (Some(missed), None) => return Err(missed.nothing_to_write_from(path)),
                };
                let start = match latest {
                    _ if is_over && missed.is_none() => Start::Finished,
                    Some(saved) => Start::Continue(Box::new(saved)),
                    None => Start::Fresh,
                };
                (start, None)
            }
        };
        let folder = RunFolder {
            path: path.to_path_buf(),
            start,
            passed_over: survey.rejected,
            changes,
            goes_back_to,
            writes_again,
            lock: RefCell::new(Some(lock)),
            disk: Cell::new(disk_of(path)),
            is_claimed: Cell::new(false),
        };
        config.train.max_steps.map_or(Ok(()), |end| folder.check_end(end))?;
        Ok(folder)
    }

    /// Refuses a checkpoint of a later step than the last of the run, `end`: its weights are not those of a run of so many steps.
    ///
    /// # Errors
    /// [`Error::CannotContinue`].
    pub fn check_end(&self, end: u64) -> Result<()> {
        match &self.start {
            Start::Continue(saved) if saved.info.step > end => Err(Error::CannotContinue {
                checkpoint: saved.folder.clone(),
                reason: format!(
                    "the checkpoint is of step {}, behind the end ({end}): `--resume PATH` goes on from an earlier one, a higher \
                     `train.max_steps` or `train.max_epochs` from this one",
                    saved.info.step
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The same for all ranks of a run: the lead takes the folder, and the others hear where it begins. The number of ranks that a batch is
    /// meant for is settled with it: what `config` says, else what the run that is continued began with, else how many there are.
    ///
    /// # Errors
    /// Those of [`RunFolder::open`], and where the checkpoint is not to be seen from here.
    pub fn open_together(
        config: &mut TrainConfig,
        path: &Path,
        policy: &ResumePolicy,
        ranks: &Ranks,
    ) -> Result<RunFolder> {
        let mut folder = None;
        let said = ranks.hear("start", || {
            config.train.world_size = match (config.train.world_size, policy) {
                (None, ResumePolicy::Never) => None,
                // That of a checkpoint: a run that left none has nothing to go on with.
                (None, ResumePolicy::Auto | ResumePolicy::LeaveFinished) => {
                    newest_in(&path.join(CHECKPOINTS)).and_then(|it| world_size_of(&it, config, ranks))
                }
                (None, ResumePolicy::From(checkpoint)) => world_size_of(checkpoint, config, ranks),
                (own, _) => own,
            }
            .or((ranks.size() > 1).then_some(ranks.size() as u64));
            let opened = RunFolder::open(config, path, policy)?;
            let said = Said {
                world_size: config.train.world_size,
                is_finished: opened.start == Start::Finished,
                checkpoint: match &opened.start {
                    Start::Continue(saved) => Some(saved.folder.clone()),
                    _ => None,
                },
            };
            folder = Some(opened);
            Ok(serde_json::json!(said).to_string())
        })?;
        if let Some(folder) = folder {
            return Ok(folder);
        }
        let said: Said =
            serde_json::from_str(&said).map_err(|error| Error::Rank(format!("rank 0 is not understood: {error}")))?;
        config.train.world_size = said.world_size;
        let start = match &said.checkpoint {
            Some(folder) if !folder.is_dir() => {
                let reason = "rank 0 goes on from here, and it is not to be seen by this rank: the output folder must lie on a disk \
                              that all ranks share";
                return Err(Error::storage(folder, reason));
            }
            // Its content was hashed by the lead.
            Some(folder) => Start::Continue(Box::new(Saved { folder: folder.clone(), info: ManifestInfo::default() })),
            None if said.is_finished => Start::Finished,
            None => Start::Fresh,
        };
        Ok(RunFolder {
            path: path.to_path_buf(),
            start,
            passed_over: Vec::new(),
            changes: Vec::new(),
            goes_back_to: None,
            writes_again: None,
            lock: RefCell::new(None),
            disk: Cell::new(disk_of(path)),
            is_claimed: Cell::new(false),
        })
    }

    /// What the lead found to be otherwise than when the run began, at all ranks.
    ///
    /// # Errors
    /// Where the lead did not come so far.
    pub fn hear_changes(&mut self, ranks: &Ranks) -> Result<()> {
        let own = self.changes.iter().map(|change| (&change.key, change.changes_order));
        let said = ranks.hear("changes", || Ok(serde_json::json!(own.collect::<Vec<_>>()).to_string()))?;
        if !ranks.is_lead() {
            let heard: Vec<(String, bool)> = serde_json::from_str(&said)
                .map_err(|error| Error::Rank(format!("rank 0 is not understood: {error}")))?;
            let change = |(key, changes_order)| Change {
                key,
                before: String::new(),
                now: String::new(),
                decides_steps: true,
                changes_order,
                is_allowed: true,
            };
            self.changes = heard.into_iter().map(change).collect();
        }
        Ok(())
    }

    /// Whether it is still the folder that was taken, and this run's: see [`FolderLock::is_in_place`].
    pub fn is_in_place(&self) -> Result<bool> {
        match self.lock.borrow().as_ref() {
            Some(lock) => Ok(lock.is_in_place()?),
            None => Ok(false),
        }
    }

    /// An error where it is not: for what is not worth making the folder anew.
    pub fn check_in_place(&self) -> Result<()> {
        match self.is_in_place()? {
            true => Ok(()),
            false => Err(Error::storage(
                &self.path,
                "it was deleted, moved, unmounted or taken by another run while this one went on",
            )),
        }
    }

    /// Takes the folder of the run `run_id` again, made anew where it has to be.
    ///
    /// # Errors
    /// A refusal of the disk where another disk is there now: what was mounted may come back, and to write below its place would
    /// hide what is written, and fill a disk that nobody chose. No such refusal where another run has the folder, or had it since.
    pub fn retake(&self, config: &TrainConfig, run_id: &str) -> Result<()> {
        // A disk that is mounted again may have another number.
        let is_back = run_in(&self.path).is_some_and(|run| run == run_id);
        if disk_of(&self.path) != self.disk.get() && !is_back {
            return Err(Error::storage(
                &self.path,
                "the folder is gone, and another disk is in its place: its own was unmounted or lost",
            ));
        }
        // The old lock goes first: where it lies under its name all the same, this process would wait for itself.
        drop(self.lock.take());
        let lock = FolderLock::acquire(&self.path)?;
        if run_in(&self.path).is_some_and(|run| run != run_id) {
            return Err(Error::TakenOver { folder: self.path.clone() });
        }
        self.write_config(config)?;
        self.lock.replace(Some(lock));
        self.disk.set(disk_of(&self.path));
        Ok(())
    }

    /// Refuses a disk without room for the checkpoints that are to be kept, and the one that is written before the oldest goes.
    /// `state` is what one takes at least.
    pub fn check_room(&self, state: u64, checkpoint: &CheckpointConfig) -> Result<()> {
        let coming = checkpoint.still_to_come(&self.checkpoints());
        let needed = state.saturating_mul(coming);
        match free_space(&self.path) {
            Some(free) if free < needed => Err(Error::storage(
                &self.path,
                format!(
                    "the disk has {} left, and {coming} checkpoints of at least {} are to come (`checkpoint.keep_last`)",
                    in_words(free),
                    in_words(state)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The file that keeps room on the disk.
    pub fn reserve(&self) -> PathBuf {
        self.path.join(RESERVE)
    }

    /// Writes the resolved configuration: from here on the folder belongs to this run. Called when everything that can
    /// be wrong with model and data has been looked at, so that a run that never began does not stand in another's way.
    /// How many checkpoints and products of later steps were set aside for it; `later_products` are names in the folder.
    pub fn claim(&self, config: &TrainConfig, later_products: &[String]) -> Result<usize> {
        // First, as what lies elsewhere has a copy here from then on: without a record a start must find something to go on from.
        let count = self.set_newer_aside(later_products)?;
        if is_finished(&self.path) {
            // Before the configuration, by which a start after a kill in between would take a finished run for one of these steps, and with
            // this product.
            let record = self.path.join(RECORD);
            fs::remove_file(&record).map_err(|error| Error::storage(&record, error))?;
            RealVfs.sync_folder(&self.path).map_err(|error| Error::storage(&self.path, error))?;
        }
        self.write_config(config)?;
        self.is_claimed.set(true);
        Ok(count)
    }

    /// Whether what lies here is this run's.
    pub fn is_claimed(&self) -> bool {
        self.is_claimed.get()
    }

    fn write_config(&self, config: &TrainConfig) -> Result<()> {
        Ok(replace_file(&RealVfs, &self.path.join(CONFIG), config.to_toml().as_bytes())?)
    }

    /// Deletes a product by its name in the folder. One that is a folder loses the name first, so that half a model never has it; what a
    /// kill in the middle leaves goes at the next start.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn delete_product(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        if !path.is_dir() {
            return fs::remove_file(&path);
        }
        let trash = self.path.join(format!("{TRASH}{name}"));
        if trash.exists() {
            fs::remove_dir_all(&trash)?;
        }
        fs::rename(&path, &trash)?;
        RealVfs.sync_folder(&self.path)?;
        fs::remove_dir_all(&trash)
    }

    /// Whether images come in another order than when the run began.
    pub fn has_other_order(&self) -> bool {
        self.changes.iter().any(|change| change.changes_order)
    }

    /// Where checkpoints are published.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }
}

/// What the lead says of where a run begins.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    world_size: Option<u64>,
    is_finished: bool,
    checkpoint: Option<PathBuf>,
}

/// For how many ranks the batches of a run were meant, by the configuration of its checkpoint.
fn world_size_of(checkpoint: &Path, config: &TrainConfig, ranks: &Ranks) -> Option<u64> {
    let before = TrainConfig::load_what_fits(&config_of(checkpoint)?, &[]).ok()?.value?.config;
    let as_large = config.ranks_for_batches_of(&before).filter(|&count| count >= ranks.size() as u64);
    before.train.world_size.map(|own| as_large.unwrap_or(own))
}

/// The checkpoint of the latest step by its name, whole or not: all of a run are of one world.
fn newest_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let steps = entries.filter_map(|entry| Some((step_of_name(entry.file_name().to_str()?)?, entry.path())));
    Some(steps.max()?.1)
}

/// The configuration that a checkpoint was written with: its own, or that of the folder that it lies in.
fn config_of(checkpoint: &Path) -> Option<PathBuf> {
    let of_run = checkpoint.parent().and_then(Path::parent).map(|run| run.join(CONFIG));
    [Some(checkpoint.join(CONFIG)), of_run].into_iter().flatten().find(|file| file.is_file())
}

/// In what `config` differs from the configuration in `file`. An error where that decides steps and is not allowed.
fn changes_since(config: &TrainConfig, file: &Path, folder: &Path) -> Result<Vec<Change>> {
    // What it names may have been moved since: only its values count.
    let before =
        TrainConfig::load_what_fits(file, &[]).ok().and_then(|parsed| parsed.value).ok_or_else(|| unknown(file))?;
    let changes = config.changes_since(&before.config);
    let refused = changes.iter().filter(|change| change.decides_steps && !change.is_allowed);
    let keys: Vec<String> = refused.map(|change| change.key.clone()).collect();
    match keys.is_empty() || seeded(Bug::AnyConfiguration) {
        true => Ok(changes),
        false => Err(Error::OtherRun { folder: folder.to_path_buf(), keys }),
    }
}

/// The error of a run whose configuration, in `file`, is not there or no configuration any more.
fn unknown(file: &Path) -> Error {
    Error::Config {
        message: format!("`{}` cannot be read, so nobody can tell whether this is the same run", file.display()),
        hint: Some("give the run another `name`, or `--resume never` to move the old folder aside".into()),
    }
}

/// The error of a finished run that is to go on with `change`, where no checkpoint of it is whole or there.
fn nothing_to_prolong(folder: &Path, change: &Change) -> Error {
    Error::CannotContinue {
        checkpoint: folder.join(CHECKPOINTS),
        reason: format!(
            "the run is finished, `{}` is another now ({} → {}), and there is no whole checkpoint to go on from; put one back, name a \
             copy of one with `--resume PATH`, leave the key as it was, or begin anew with `--resume never`",
            change.key, change.before, change.now
        ),
    }
}

/// Whether a run has begun in the folder.
pub fn has_begun(folder: &Path) -> bool {
    folder.join(CONFIG).exists() || newest_in(&folder.join(CHECKPOINTS)).is_some()
}

fn is_finished(folder: &Path) -> bool {
    record_in(folder).is_some_and(|record| record["outcome"] == "finished")
}

/// The id of the run whose record lies in the folder.
fn run_in(folder: &Path) -> Option<String> {
    Some(record_in(folder)?["run_id"].as_str()?.to_string())
}

/// The record that a run left in the folder, where there is one that can be read.
pub(crate) fn record_in(folder: &Path) -> Option<serde_json::Value> {
    let record = fs::read(folder.join(RECORD)).ok()?;
    serde_json::from_slice(&record).ok()
}

/// Removes the products that a killed run was about to delete. They only take room: what cannot be removed stays.
fn clear_trash(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let trash = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(TRASH));
    let trash: Vec<PathBuf> = trash.map(|entry| entry.path()).collect();
    // On the disk they may still have the names of products, which a power cut would bring back, half deleted.
    if trash.is_empty() || RealVfs.sync_folder(folder).is_err() {
        return;
    }
    for path in trash {
        let _ = fs::remove_dir_all(path);
    }
}

/// The number of the disk that the folder lies on, or would lie on.
fn disk_of(folder: &Path) -> Option<u64> {
    let folder = std::path::absolute(folder).ok()?;
    folder.ancestors().find_map(|place| fs::metadata(place).ok()).map(|place| place.dev())
}

/// Whether a model or adapter lies in the folder.
fn has_product(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        path.extension().is_some_and(|ending| ending == "safetensors") || path.join("model_index.json").is_file()
    })
}

/// `NAME` becomes `NAME.1`, or the first number that is free.
///
/// # Errors
/// Where the folder cannot be renamed; [`Error::Config`] with the way out where that is known before: of a link the link alone would go.
pub fn move_aside(folder: &Path) -> Result<()> {
    if let Some(reason) = Unmovable::of(folder) {
        return Err(Error::Config { message: reason.in_words(folder), hint: Some(reason.hint()) });
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    const RUN: &str = "1-a";

    fn write_record(folder: &Path, run_id: &str) {
        fs::create_dir_all(folder).expect("there is room");
        fs::write(folder.join("run.json"), format!("{{\"run_id\": \"{run_id}\"}}")).expect("there is room");
    }

    fn is_in_place(folder: &RunFolder) -> bool {
        folder.is_in_place().expect("the disk tells")
    }

    fn open(path: &Path, config: &TrainConfig) -> RunFolder {
        RunFolder::open(config, path, &ResumePolicy::Auto).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A folder that was taken, and then deleted.
    fn gone(scratch: &Path) -> (RunFolder, TrainConfig) {
        let config = TrainConfig::default();
        let path = scratch.join("run");
        let folder = open(&path, &config);
        folder.check_in_place().unwrap_or_else(|error| panic!("{error}"));
        fs::remove_dir_all(&path).expect("it is there");
        assert!(!is_in_place(&folder) && folder.check_in_place().is_err());
        (folder, config)
    }

    #[test]
    fn a_folder_that_was_deleted_is_taken_again_with_its_configuration() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let (folder, config) = gone(scratch.path());
        folder.retake(&config, RUN).unwrap_or_else(|error| panic!("{error}"));
        assert!(is_in_place(&folder));
        assert_eq!(fs::read_to_string(folder.path.join(CONFIG)).expect("written"), config.to_toml());
        assert!(FolderLock::acquire(&folder.path).is_err(), "nobody else can take it");
    }

    #[test]
    fn a_folder_that_another_run_had_since_is_left_to_it() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let (folder, config) = gone(scratch.path());
        write_record(&folder.path, "2-b");
        let error = folder.retake(&config, RUN).expect_err("it is another run's");
        assert!(matches!(error, Error::TakenOver { .. }), "{error}");
        assert!(!folder.path.join(CONFIG).exists() && !is_in_place(&folder));
    }

    #[test]
    fn another_disk_in_the_place_of_the_folder_is_not_written_to_unless_the_run_lies_on_it() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let (folder, config) = gone(scratch.path());
        folder.disk.set(None);
        let error = folder.retake(&config, RUN).expect_err("another disk").to_string();
        assert!(error.contains("another disk is in its place"), "{error}");
        assert!(!folder.path.exists());
        // As after a network file system was mounted again.
        write_record(&folder.path, RUN);
        folder.retake(&config, RUN).unwrap_or_else(|error| panic!("{error}"));
        assert!(is_in_place(&folder) && folder.disk.get().is_some());
    }

    #[test]
    fn a_link_in_the_place_of_the_folder_is_not_moved_aside() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let (run, link) = (scratch.path().join("big/run"), scratch.path().join("sl"));
        fs::create_dir_all(run.join(CHECKPOINTS)).expect("there is room");
        std::os::unix::fs::symlink("big/run", &link).expect("there is room");
        let result = RunFolder::open(&TrainConfig::default(), &link, &ResumePolicy::Never);
        let Err(Error::Config { message, hint: Some(hint) }) = result else { panic!("it is refused") };
        assert!(message.contains("sl` cannot be moved aside: it is a symbolic link to"), "{message}");
        assert!(hint.contains("big/run`"), "{hint}");
        assert!(link.is_symlink() && run.join(CHECKPOINTS).is_dir() && !scratch.path().join("sl.1").exists());
        // As the hint says.
        RunFolder::open(&TrainConfig::default(), &run.join(""), &ResumePolicy::Never)
            .unwrap_or_else(|error| panic!("{error}"));
        assert!(scratch.path().join("big/run.1").join(CHECKPOINTS).is_dir());
    }

    #[test]
    fn a_product_that_is_being_deleted_is_whole_as_long_as_it_has_its_name() {
        const FILES: usize = 1000;
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = open(&scratch.path().join("run"), &TrainConfig::default());
        let product = folder.path.join("run-000001");
        fs::create_dir(&product).expect("there is room");
        for number in 0..FILES {
            fs::write(product.join(number.to_string()), "").expect("there is room");
        }
        let (looks, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let count = fs::read_dir(&product).map_or(FILES, |entries| entries.count());
                    assert!(count == FILES || !product.exists(), "{count} of {FILES} files have its name");
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
            while looks.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            let deleted = folder.delete_product("run-000001");
            is_over.store(true, Ordering::Relaxed);
            deleted.expect("it is ours");
        });
        assert!(!product.exists() && !folder.path.join(".trash-run-000001").exists());
    }

    #[test]
    fn what_a_killed_run_was_about_to_delete_is_gone_after_the_next_start() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let path = scratch.path().join("run");
        let left = path.join(".trash-run-000001");
        fs::create_dir_all(left.join("unet")).expect("there is room");
        drop(open(&path, &TrainConfig::default()));
        assert!(!left.exists());
    }
}
