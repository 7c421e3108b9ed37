//! `sdtrain train`: checks the configuration, then becomes the engine.

use crate::args::{ConfigArgs, Resume, TrainArgs};
use crate::commands::check::{examine, load_or_explain};
use crate::engine::become_engine;
use crate::room;
use crate::{ExitCode, Failure};
use std::path::{Path, PathBuf};

/// Comes back only with a failure.
pub(crate) fn run(args: &TrainArgs) -> Result<(), Failure> {
    if let Resume::From(path) = &args.resume
        && !path.exists()
    {
        let message = format!("`--resume {}` does not exist", path.display());
        return Err(
            Failure::new(ExitCode::Configuration, message).hint("it is `auto`, `never` or the path of a checkpoint")
        );
    }
    // Before half a second goes into loading libtorch, and before anything is written.
    let config = load_or_explain(&args.config)?.config;
    let trained = examine(&config)?.trained();
    let output = args.output.clone().unwrap_or_else(|| default_output(&config.name));
    if args.resume == Resume::Auto {
        room::check(&config, trained, &output)?;
    }
    Err(become_engine())
}

/// Where a run writes to unless told otherwise.
pub fn default_output(name: &str) -> PathBuf {
    Path::new("outputs").join(name)
}

/// Refuses a wrong configuration at once, before half a second goes into loading libtorch.
pub(crate) fn checked(config: &ConfigArgs) -> Result<(), Failure> {
    load_or_explain(config)?;
    Err(become_engine())
}
