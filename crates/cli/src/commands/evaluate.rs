//! `sdtrain evaluate`: checks the configuration and the products, then becomes the engine.

use crate::args::EvaluateArgs;
use crate::commands::train::checked;
use crate::{ExitCode, Failure};

/// Comes back only with a failure.
pub(crate) fn run(args: &EvaluateArgs) -> Result<(), Failure> {
    let missing = args.checkpoint.iter().filter(|file| !file.exists());
    let failures = missing
        .map(|file| Failure::new(ExitCode::Configuration, format!("`--checkpoint {}` does not exist", file.display())));
    match failures.reduce(Failure::and) {
        Some(failure) => Err(failure),
        None => checked(&args.config),
    }
}
