//! A look at the folder that a run will write to, before anything is read for it: half a million images take longer to look through
//! than a disk that is full takes to say so.

use std::path::{Path, PathBuf};

use sdtrain_checkpoint::{Error, FolderLock, probe_ahead};
use sdtrain_files::Unmovable;
use sdtrain_recipe::Plan;

use crate::args::Resume;
use crate::{ExitCode, Failure};

/// Refuses an output folder that another run has, that cannot be written to, or that is to be moved aside and cannot be. Nothing is made,
/// and nothing stays.
///
/// The run itself takes the folder later, and tries it again: what others do in between is found then.
pub(crate) fn look(plan: &Plan, output: &Path, resume: &Resume) -> Result<(), Failure> {
    let mut folders: Vec<PathBuf> = (0..plan.runs.len()).map(|index| plan.folder(index, output)).collect();
    let has_stages = plan.runs.iter().any(|run| run.stage.is_some());
    // By the same signs as the engine moves it.
    let holds_a_run = match has_stages {
        true => folders.iter().any(|stage| stage.exists()),
        false => ["config.toml", "checkpoints"].iter().any(|name| output.join(name).exists()),
    };
    if *resume == Resume::Never
        && holds_a_run
        && let Some(reason) = Unmovable::of(output)
    {
        return Err(Failure::new(ExitCode::Configuration, reason.in_words(output)).hint(reason.hint()));
    }
    if has_stages {
        folders.push(output.to_owned());
    }
    folders.iter().try_for_each(|folder| FolderLock::look(folder))?;
    for folder in &folders {
        // With `never` the old folder is moved aside: its own checkpoints do not matter.
        let written = if *resume == Resume::Never { folder.clone() } else { folder.join("checkpoints") };
        probe_ahead(&written).map_err(|error| not_writable(&written, error))?;
    }
    Ok(())
}

/// The failure, with the folder that was meant: what was tried out may lie above it.
fn not_writable(folder: &Path, error: Error) -> Failure {
    let mut failure = Failure::from(error);
    if let Some(problem) = failure.problems.0.last_mut() {
        problem.message = format!("nothing can be written to `{}`: {}", folder.display(), problem.message);
    }
    failure
}
