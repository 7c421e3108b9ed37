//! The product of a finished run that is not there, or not as it is asked for now: it is written from the last checkpoint that is whole.

use super::going_back::was_at;
use super::{CHECKPOINTS, CONFIG, Saved, config_of, is_finished, newest_in};
use crate::error::{Error, Result};
use sdtrain_recipe::{Change, TrainConfig};
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};

/// Why the product of a finished run is to be written once more.
#[derive(Debug)]
pub(super) enum Missed {
    /// This file or folder of it is not there.
    Gone(PathBuf),
    /// It was written with another value of a key: where it is to be, and the key.
    Other(PathBuf, Change),
}

impl Missed {
    /// What is missed of the product of `config` in `folder`, where a run is finished whose keys have had `changes` since.
    ///
    /// # Errors
    /// Those of [`is_there`].
    pub fn of(config: &TrainConfig, folder: &Path, changes: &[Change]) -> Result<Option<Missed>> {
        let mut gone = None;
        // Each of them: what is not there is written together with the others.
        for path in config.products_in(folder) {
            if !is_there(&path)? {
                gone.get_or_insert(path);
            }
        }
        let other = changes.iter().find(|change| config.decides_product(&change.key));
        let other = other.map(|change| Missed::Other(config.product_in(folder), change.clone()));
        Ok(other.or(gone.map(Missed::Gone)))
    }

    /// That the run in `folder` goes on from `saved` for its product, as a line for who started it.
    pub fn written_from(&self, folder: &Path, saved: &Saved) -> String {
        let (path, step) = (folder.display(), saved.info.step);
        // Where the last checkpoint is damaged or gone.
        let then = match was_at(folder).saturating_sub(step) {
            0 => String::new(),
            1 => ", after 1 more step".to_string(),
            more => format!(", after {more} more steps"),
        };
        format!("`{path}` holds this run, finished, but {self}: it is written from the checkpoint of step {step}{then}")
    }

    /// The error where there is no whole checkpoint.
    pub fn nothing_to_write_from(&self, folder: &Path) -> Error {
        let way_out = match self {
            Missed::Gone(_) => "put it or a checkpoint back",
            Missed::Other(..) => "leave the key as it was, put a checkpoint back",
        };
        Error::CannotContinue {
            checkpoint: folder.join(CHECKPOINTS),
            reason: format!(
                "the run is finished, but {self}, and there is no whole checkpoint to write it from; {way_out}, name a copy of one with \
                 `--resume PATH`, or begin anew with `--resume never`"
            ),
        }
    }
}

impl Display for Missed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Missed::Gone(product) => write!(f, "its product `{}` is not there", product.display()),
            Missed::Other(product, change) => {
                let Change { key, before, now, .. } = change;
                write!(f, "`{key}` is another now ({before} → {now}) for its product `{}`", product.display())
            }
        }
    }
}

/// Whether a file or folder of a product is there. A link that leads nowhere is none that was deleted: its disk may be away, and what is
/// written goes to the place of the link.
///
/// # Errors
/// [`Error::Storage`] of such a link, and where the disk does not tell.
fn is_there(path: &Path) -> Result<bool> {
    let cannot = |what: String| {
        let reason = format!(
            "{what}; it is the product of a finished run: mount its disk again, or take away what has its name to have it written from the \
             last checkpoint"
        );
        Err(Error::storage(path, reason))
    };
    match path.try_exists() {
        Ok(false) if path.is_symlink() => {
            let target = fs::read_link(path).unwrap_or_default();
            cannot(format!("a symbolic link to `{}`, where nothing is", target.display()))
        }
        Ok(is_there) => Ok(is_there),
        Err(error) => cannot(format!("whether it is there cannot be told ({error})")),
    }
}

/// `config` with what the run in `folder` made its product with, where it is finished: these keys may have been changed since. Also of
/// one that is not, where it `is_followed` by a run that began with the product: it writes that anew, and may have been killed meanwhile.
pub fn with_kept_product(config: TrainConfig, folder: &Path, is_followed: bool) -> TrainConfig {
    match own_of(folder).filter(|_| is_followed || is_finished(folder)) {
        Some(own) => config.with_product_of(&own),
        None => config,
    }
}

/// Whether the run in `folder` is finished, and a run of `config` would make no other step.
pub fn has_all_steps(config: &TrainConfig, folder: &Path) -> bool {
    let Some(own) = own_of(folder).filter(|_| is_finished(folder)) else { return false };
    let mut config = config.clone();
    if config.train.world_size.is_none() {
        // As a start takes it from the checkpoint.
        config.train.world_size =
            own.train.world_size.map(|before| config.ranks_for_batches_of(&own).unwrap_or(before));
    }
    !config.changes_since(&own).iter().any(|change| change.decides_steps)
}

/// Whether the finished run in `folder` lacks the product of `config`, or has it otherwise than that asks for.
///
/// # Errors
/// [`Error::Storage`] where a file of it cannot be looked for, or is a link that leads nowhere.
pub fn misses_product(config: &TrainConfig, folder: &Path) -> Result<bool> {
    let changes = own_of(folder).map(|own| config.changes_since(&own)).unwrap_or_default();
    Ok(Missed::of(config, folder, &changes)?.is_some())
}

/// The configuration of the run in a folder, else that of its newest checkpoint. What it names may have been moved since: only its values
/// count.
fn own_of(folder: &Path) -> Option<TrainConfig> {
    let own = Some(folder.join(CONFIG)).filter(|own| own.is_file());
    let file = own.or_else(|| config_of(&newest_in(&folder.join(CHECKPOINTS))?))?;
    Some(TrainConfig::load_what_fits(&file, &[]).ok()?.value?.config)
}

#[cfg(test)]
mod tests {
    use super::super::{RECORD, ResumePolicy, RunFolder, Start};
    use super::*;
    use sdtrain_checkpoint::ManifestInfo;
    use std::os::unix::fs::symlink;

    /// A folder with a finished run of `config`: its configuration, its product, and a checkpoint of step 3.
    fn finished(scratch: &Path, config: &TrainConfig) -> PathBuf {
        let folder = scratch.join("run");
        let info = ManifestInfo { step: 3, ..ManifestInfo::default() };
        sdtrain_checkpoint::publish(&folder.join(CHECKPOINTS), "step-000003", info, &mut |path| {
            Ok(fs::write(path.join(CONFIG), config.to_toml())?)
        })
        .expect("there is room");
        let record = "{\"run_id\": \"1-a\", \"outcome\": \"finished\", \"steps\": 3}";
        fs::write(folder.join(RECORD), record).expect("there is room");
        fs::write(folder.join(CONFIG), config.to_toml()).expect("there is room");
        fs::write(folder.join("run.safetensors"), "weights").expect("there is room");
        folder
    }

    fn named_run() -> TrainConfig {
        TrainConfig { name: "run".into(), ..TrainConfig::default() }
    }

    fn open(config: &TrainConfig, folder: &Path) -> Result<RunFolder> {
        RunFolder::open(config, folder, &ResumePolicy::Auto)
    }

    /// What is said of it, where it goes on from its checkpoint for its product.
    fn goes_on(config: &TrainConfig, folder: &Path) -> String {
        let opened = open(config, folder).unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(&opened.start, Start::Continue(saved) if saved.info.step == 3));
        opened.writes_again.clone().expect("it says so")
    }

    #[test]
    fn a_product_that_is_not_there_is_written_from_the_last_checkpoint() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let config = named_run();
        let folder = finished(scratch.path(), &config);
        let is_over = |folder: &RunFolder| folder.start == Start::Finished && folder.writes_again.is_none();
        let misses = |config: &TrainConfig| misses_product(config, &folder).unwrap_or_else(|error| panic!("{error}"));
        assert!(is_over(&open(&config, &folder).expect("it is whole")) && !misses(&config));
        let mut other = config.clone();
        other.name = "other".into();
        let said = goes_on(&other, &folder);
        assert!(said.contains("`name`") && said.contains("other.safetensors") && said.contains("step 3"), "{said}");
        assert!(misses(&other));
        fs::remove_file(folder.join("run.safetensors")).expect("it is there");
        let said = goes_on(&config, &folder);
        assert!(said.contains("run.safetensors` is not there"), "{said}");
        // Of a stage whose next one is done.
        let left = RunFolder::open(&config, &folder, &ResumePolicy::LeaveFinished).expect("it is left alone");
        assert!(is_over(&left));
        drop(left);
        fs::remove_dir_all(folder.join(CHECKPOINTS)).expect("it is there");
        let Err(error) = open(&config, &folder) else { panic!("there is nothing to write it from") };
        let said = error.to_string();
        assert!(matches!(error, Error::CannotContinue { .. }), "{said}");
        assert!(said.contains("run.safetensors` is not there") && said.contains("--resume never"), "{said}");
    }

    /// Another name, asked for after a kill while it is written anew, must not become that of what others began with.
    #[test]
    fn a_product_that_others_began_with_keeps_its_name_while_it_is_written_anew() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let config = named_run();
        let folder = finished(scratch.path(), &config);
        let other = TrainConfig { name: "other".into(), ..TrainConfig::default() };
        let name = |is_followed| with_kept_product(other.clone(), &folder, is_followed).name;
        assert_eq!([false, true].map(name), ["run", "run"]);
        fs::remove_file(folder.join("run.safetensors")).expect("it is there");
        let opened = open(&config, &folder).unwrap_or_else(|error| panic!("{error}"));
        opened.claim(&config, &[]).unwrap_or_else(|error| panic!("{error}"));
        drop(opened);
        assert_eq!([false, true].map(name), ["other", "run"]);
        fs::remove_file(folder.join(CONFIG)).expect("it is there");
        assert_eq!(name(true), "run", "its checkpoint says so");
    }

    #[test]
    fn a_finished_run_has_all_steps_of_what_makes_no_other() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let mut config = named_run();
        config.train.world_size = Some(2);
        let folder = finished(scratch.path(), &config);
        let mut asked = TrainConfig { name: "other".into(), ..TrainConfig::default() };
        assert!(has_all_steps(&asked, &folder), "the number of ranks is taken from the run");
        asked.train.max_steps = Some(12);
        asked.checkpoint.allow_changes = vec!["train.max_steps".into()];
        assert!(!has_all_steps(&asked, &folder));
        fs::remove_file(folder.join(RECORD)).expect("it is there");
        assert!(!has_all_steps(&config, &folder));
    }

    /// The disk that it was moved to may only be away.
    #[test]
    fn a_product_that_is_a_link_to_nowhere_is_named_and_not_replaced() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let config = named_run();
        let folder = finished(scratch.path(), &config);
        let (product, elsewhere) = (folder.join("run.safetensors"), scratch.path().join("disk/run.safetensors"));
        fs::remove_file(&product).expect("it is there");
        symlink(&elsewhere, &product).expect("there is room");
        let mut other = config.clone();
        other.precision.save = sdtrain_recipe::FloatType::Bf16;
        for asked in [&config, &other] {
            let Err(error) = open(asked, &folder) else { panic!("it would be replaced") };
            let said = error.to_string();
            assert!(matches!(&error, Error::Storage { path, .. } if *path == product), "{said}");
            assert!(said.contains("a symbolic link to `") && said.contains("disk/run.safetensors`"), "{said}");
            assert!(said.contains("mount its disk again"), "{said}");
        }
        misses_product(&config, &folder).expect_err("nobody knows");
        // Of a stage that nobody asks for it.
        assert!(RunFolder::open(&config, &folder, &ResumePolicy::LeaveFinished).is_ok());
        // As when the disk is back.
        fs::create_dir(scratch.path().join("disk")).expect("there is room");
        fs::write(&elsewhere, "weights").expect("there is room");
        assert!(open(&config, &folder).is_ok_and(|opened| opened.start == Start::Finished));
        // A disk that does not answer, as far as a test can have one.
        fs::remove_file(&product).expect("it is there");
        symlink(&product, &product).expect("there is room");
        let Err(error) = open(&config, &folder) else { panic!("it would be replaced") };
        assert!(error.to_string().contains("whether it is there cannot be told"), "{error}");
    }

    #[test]
    fn steps_that_are_done_again_for_a_product_are_said() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let config = named_run();
        let folder = finished(scratch.path(), &config);
        fs::remove_file(folder.join("run.safetensors")).expect("it is there");
        // As if the checkpoints behind it were damaged.
        for (steps, end) in
            [(3, "of step 3"), (4, "of step 3, after 1 more step"), (9, "of step 3, after 6 more steps")]
        {
            let record = format!("{{\"run_id\": \"1-a\", \"outcome\": \"finished\", \"steps\": {steps}}}");
            fs::write(folder.join(RECORD), record).expect("there is room");
            let said = goes_on(&config, &folder);
            assert!(said.ends_with(end), "{said}");
        }
    }

    /// A kill right behind it must not leave a finished run that seems to have been asked for the new product, or for more steps.
    #[test]
    fn what_is_asked_for_otherwise_is_no_finished_run_once_it_is_claimed() {
        let mut config = named_run();
        config.train.max_steps = Some(3);
        let (mut bf16, mut longer) = (config.clone(), config.clone());
        bf16.precision.save = sdtrain_recipe::FloatType::Bf16;
        longer.train.max_steps = Some(12);
        longer.checkpoint.allow_changes = vec!["train.max_steps".into()];
        for asked in [&bf16, &longer] {
            for names_checkpoint in [false, true] {
                let scratch = tempfile::tempdir().expect("a temporary folder");
                let folder = finished(scratch.path(), &config);
                let policy = match names_checkpoint {
                    true => ResumePolicy::From(folder.join(CHECKPOINTS).join("step-000003")),
                    false => ResumePolicy::Auto,
                };
                let opened = RunFolder::open(asked, &folder, &policy).unwrap_or_else(|error| panic!("{error}"));
                opened.claim(asked, &[]).unwrap_or_else(|error| panic!("{error}"));
                drop(opened);
                let opened = open(asked, &folder).unwrap_or_else(|error| panic!("{error}"));
                let goes_on = matches!(&opened.start, Start::Continue(saved) if saved.info.step == 3);
                assert!(goes_on && !is_finished(&folder), "with a checkpoint named: {names_checkpoint}");
            }
        }
    }

    #[test]
    fn a_finished_folder_without_its_configuration_is_held_against_that_of_its_checkpoint() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let config = named_run();
        let folder = finished(scratch.path(), &config);
        fs::remove_file(folder.join(CONFIG)).expect("it is there");
        let mut other = config.clone();
        other.seed += 1;
        let Err(error) = open(&other, &folder) else { panic!("it is another run") };
        assert!(matches!(&error, Error::OtherRun { keys, .. } if *keys == ["seed"]), "{error}");
        assert!(open(&config, &folder).is_ok_and(|folder| folder.start == Start::Finished));
        fs::remove_dir_all(folder.join(CHECKPOINTS)).expect("it is there");
        let Err(error) = open(&config, &folder) else { panic!("nobody knows which run it was") };
        assert!(error.to_string().contains("nobody can tell whether this is the same run"), "{error}");
    }
}
