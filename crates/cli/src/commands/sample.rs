//! `sdtrain sample`: checks that every file is there, then becomes the engine.

use std::path::Path;

use sdtrain_hub::Wanted;

use crate::args::SampleArgs;
use crate::engine::become_engine;
use crate::hub_files::{HubFiles, whole_model, wrong_file, wrong_model};
use crate::{ExitCode, Failure};

/// Comes back only with a failure.
pub(crate) fn run(args: &SampleArgs) -> Result<(), Failure> {
    let mut failures = Vec::new();
    failures.extend(wrong_model(&args.model));
    let files = args.lora.iter().map(|lora| ("--lora", lora.path.as_path()));
    let words = args.embedding.iter().map(|file| ("--embedding", file.path.as_path()));
    for (flag, path) in files.chain(words).chain(args.vae.as_deref().map(|vae| ("--vae", vae))) {
        failures.extend(wrong_file(flag, path));
    }
    if !args.guidance.is_finite() || args.guidance < 0.0 {
        let message = format!("`--guidance` must not be negative, and is {}", args.guidance);
        failures.push(Failure::new(ExitCode::Configuration, message));
    }
    if Path::new(&args.output).is_file() {
        let message = format!("`--output {}` is a file, not a folder", args.output.display());
        failures.push(Failure::new(ExitCode::Configuration, message));
    }
    if let Some(failure) = failures.into_iter().reduce(Failure::and) {
        return Err(failure);
    }
    let vae = args.vae.iter().filter_map(|vae| Some((vae.to_str()?, Wanted::Vae)));
    let files = args.lora.iter().map(|lora| &lora.path).chain(args.embedding.iter().map(|words| &words.path));
    let files = files.filter_map(|path| Some((path.to_str()?, Wanted::File)));
    let model = (args.model.as_str(), whole_model());
    HubFiles::prepare([model].into_iter().chain(vae).chain(files))?.fetch()?;
    Err(become_engine())
}
