//! `sdtrain sample`: checks that every file is there, then becomes the engine.

use std::path::Path;

use sdtrain_recipe::ModelLocation;

use crate::args::SampleArgs;
use crate::engine::become_engine;
use crate::{ExitCode, Failure};

/// Comes back only with a failure.
pub(crate) fn run(args: &SampleArgs) -> Result<(), Failure> {
    let mut failures = Vec::new();
    if let Err((message, hint)) = ModelLocation::find(&args.model) {
        failures.push(Failure::new(ExitCode::Configuration, format!("`--model`: {message}")).maybe_hint(hint));
    }
    let files = args.lora.iter().map(|lora| ("--lora", lora.path.as_path()));
    let words = args.embedding.iter().map(|file| ("--embedding", file.path.as_path()));
    for (flag, path) in files.chain(words).chain(args.vae.as_deref().map(|vae| ("--vae", vae))) {
        if !path.exists() {
            let message = format!("`{flag} {}` does not exist", path.display());
            failures.push(Failure::new(ExitCode::Configuration, message));
        }
    }
    if !args.guidance.is_finite() || args.guidance < 0.0 {
        let message = format!("`--guidance` must not be negative, and is {}", args.guidance);
        failures.push(Failure::new(ExitCode::Configuration, message));
    }
    if Path::new(&args.output).is_file() {
        let message = format!("`--output {}` is a file, not a folder", args.output.display());
        failures.push(Failure::new(ExitCode::Configuration, message));
    }
    match failures.into_iter().reduce(Failure::and) {
        Some(failure) => Err(failure),
        None => Err(become_engine()),
    }
}
