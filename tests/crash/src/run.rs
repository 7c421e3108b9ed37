//! A run without libtorch: it recovers, computes, saves and prunes with the calls of the trainer, on any file system.

use std::io::{Read, Write};
use std::path::Path;

use sdtrain_checkpoint::vfs::Vfs;
use sdtrain_checkpoint::{Error, ManifestInfo, prune_with, publish_with, recover_with, replace_file};

/// Steps begin here, so that the names of the checkpoints get longer on the way: `step-999998`, `step-1000000`.
pub const FIRST: u64 = 999_994;

/// The state in a checkpoint; its first 32 bytes decide every later one.
pub const STATE: &str = "tensors.bin";
/// The small file in a checkpoint.
pub const SMALL: &str = "state.json";
/// A file without content in a checkpoint.
pub const EMPTY: &str = "empty";
/// What the run is for.
pub const PRODUCT: &str = "product.bin";

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Steps to do in all.
    pub steps: u64,
    /// Steps between two checkpoints.
    pub every: u64,
    /// Checkpoints that are kept.
    pub keep_last: usize,
    /// Goes into the manifest. A run that continues from a checkpoint of another build saves it again, as a signal that stops
    /// a run before its first step makes the trainer do.
    pub build: String,
}

impl Plan {
    /// The last step.
    pub fn last(&self) -> u64 {
        FIRST + self.steps
    }
}

/// What is around a run: the log, the cache, whoever listens.
pub trait Surroundings {
    /// The run begins, or continues after a step.
    fn begin(&mut self, resumed: Option<u64>) -> Result<(), Failure>;
    /// A step is done.
    fn step(&mut self, step: u64) -> Result<(), Failure>;
    /// Says a line that may be relied on.
    fn say(&mut self, line: &str);
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A checkpoint could not be written, read or owned.
    #[error(transparent)]
    Checkpoint(#[from] Error),
    /// The metrics could not be opened.
    #[error(transparent)]
    Metrics(#[from] sdtrain_run_log::Error),
    /// The cache could not be read or written.
    #[error(transparent)]
    Cache(#[from] sdtrain_feature_cache::Error),
    /// What was read is not what was written.
    #[error("{0}")]
    Wrong(String),
}

impl Failure {
    /// The exit code that the trainer gives it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Checkpoint(Error::Locked { .. }) => 9,
            Failure::Checkpoint(error) if error.storage_error().is_some() => 7,
            Failure::Checkpoint(_) => 4,
            Failure::Metrics(_) | Failure::Cache(_) => 7,
            Failure::Wrong(_) => 70,
        }
    }
}

/// The state after a step, as a function of the one before it.
pub fn next(state: &[u8; 32], step: u64) -> [u8; 32] {
    *blake3::Hasher::new().update(state).update(&step.to_le_bytes()).finalize().as_bytes()
}

/// The state after a step of a run that was never disturbed.
pub fn state_after(step: u64) -> [u8; 32] {
    (FIRST + 1..=step).fold(first_state(), |state, step| next(&state, step))
}

fn first_state() -> [u8; 32] {
    *blake3::hash(b"before the first step").as_bytes()
}

/// The state as it is stored: 32 bytes, and two thousand that they decide.
pub fn content(state: &[u8; 32]) -> Vec<u8> {
    let mut bytes = vec![0; 2000 + usize::from(state[0])];
    blake3::Hasher::new().update(state).finalize_xof().fill(&mut bytes);
    [&state[..], &bytes].concat()
}

/// The small file of a step.
pub fn small(step: u64) -> Vec<u8> {
    format!("{{\"step\": {step}}}\n").into_bytes()
}

/// Name of a checkpoint.
pub fn name(step: u64) -> String {
    format!("step-{step:06}")
}

/// One life of a run, from wherever it is to the end of its plan.
pub fn live(vfs: &dyn Vfs, folder: &Path, plan: &Plan, around: &mut dyn Surroundings) -> Result<(), Failure> {
    let checkpoints = folder.join("checkpoints");
    let survey = recover_with(vfs, &checkpoints)?;
    for (path, reason) in &survey.rejected {
        around.say(&format!("passing over {}: {reason}", path.file_name().unwrap_or_default().display()));
    }
    let (mut step, mut state) = (FIRST, first_state());
    match &survey.newest {
        Some((path, manifest)) => {
            step = manifest.info.step;
            state = load(vfs, &path.join(STATE))?;
            around.begin(Some(step))?;
            around.say(&format!("continuing after {step}"));
            if manifest.info.build != plan.build {
                save(vfs, &checkpoints, step, &state, plan, around)?;
            }
        }
        None => {
            around.begin(None)?;
            around.say("beginning");
        }
    }
    while step < plan.last() {
        step += 1;
        state = next(&state, step);
        around.step(step)?;
        if (step - FIRST).is_multiple_of(plan.every) {
            save(vfs, &checkpoints, step, &state, plan, around)?;
        }
    }
    replace_file(vfs, &folder.join(PRODUCT), &content(&state))?;
    around.say("finished");
    Ok(())
}

/// Publishes, acknowledges, and only then prunes.
fn save(
    vfs: &dyn Vfs,
    checkpoints: &Path,
    step: u64,
    state: &[u8; 32],
    plan: &Plan,
    around: &mut dyn Surroundings,
) -> Result<(), Failure> {
    let info = ManifestInfo { step, build: plan.build.clone(), ..ManifestInfo::default() };
    publish_with(vfs, checkpoints, &name(step), info, &mut |publication| {
        // In pieces, as a large file is written.
        let mut file = publication.create(STATE)?;
        for piece in content(state).chunks(700) {
            file.write_all(piece)?;
        }
        publication.finish(file)?;
        publication.write(EMPTY, b"")?;
        // Through its path, as the trainer writes.
        let path = publication.folder().join(SMALL);
        vfs.create_file(&path)?.write_all(&small(step))?;
        publication.adopt_folder()?;
        Ok(())
    })?;
    around.say(&format!("saved {step}"));
    prune_with(vfs, checkpoints, step, plan.keep_last)?;
    Ok(())
}

fn load(vfs: &dyn Vfs, path: &Path) -> Result<[u8; 32], Failure> {
    let mut bytes = Vec::new();
    let read = vfs.open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|source| Error::Storage { what: "read", path: path.to_owned(), source })?;
    let wrong = || Failure::Wrong(format!("`{}` passed for whole, but is too short", path.display()));
    bytes.first_chunk().copied().ok_or_else(wrong)
}
