//! `sdtrain train`.

use crate::failure;
use sdtrain::args::{Resume, TrainArgs};
use sdtrain::{ExitCode, Failure, default_output, too_little_memory};
use sdtrain_recipe::{Loaded, TrainConfig};
use sdtrain_trainer::{Outcome, ResumePolicy, RunOptions, train};

/// Trains, samples and evaluates as the configuration says.
pub fn run(args: &TrainArgs) -> Result<(), Failure> {
    let Loaded { config, .. } = TrainConfig::load(&args.config.config, &args.config.set)?;
    let output = args.output.clone().unwrap_or_else(|| default_output(&config.name));
    let options = RunOptions {
        output: output.clone(),
        device: args.device.to_string(),
        resume: match &args.resume {
            Resume::Auto => ResumePolicy::Auto,
            Resume::Never => ResumePolicy::Never,
            Resume::From(path) => ResumePolicy::From(path.clone()),
        },
    };
    let explained = |error| {
        let failure = failure::of(error);
        match (failure.code, failure.problems.0.first()) {
            (ExitCode::DeviceMemory, Some(problem)) => too_little_memory(&args.config, &problem.message),
            _ => failure,
        }
    };
    match train(config, &options).map_err(explained)? {
        Outcome::Done(_) => Ok(()),
        Outcome::AlreadyDone => {
            eprintln!("`{}` holds this run, finished; `--resume never` trains it anew", output.display());
            Ok(())
        }
        Outcome::Stopped(step) => {
            eprintln!("stopped after step {step}; the same command continues");
            // Everything is said; only the code is left to tell.
            Err(Failure { problems: Default::default(), code: ExitCode::Stopped })
        }
    }
}
