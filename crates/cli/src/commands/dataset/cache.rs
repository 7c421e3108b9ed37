//! `sdtrain dataset cache`: checks the configuration, then becomes the engine.

use crate::args::{ConfigArgs, DatasetCacheArgs};
use crate::commands::check::load_or_explain;
use crate::commands::train::fetch_suitable;
use crate::engine::become_engine;
use crate::{ExitCode, Failure};

/// Comes back only with a failure.
pub(super) fn run(args: &DatasetCacheArgs) -> Result<(), Failure> {
    let config = load_or_explain(&args.config)?.config;
    if !config.objective_kind().denoises() {
        let message = "`method = \"vae\"` trains on images and never reads latents from a cache";
        return Err(Failure::new(ExitCode::Configuration, message));
    }
    if config.data.cache_dir.is_none() {
        let message = "`data.cache_dir` is not set: there is no folder to fill";
        return Err(Failure::new(ExitCode::Configuration, message)
            .hint("write it into the configuration, so that the run reads what is kept there"));
    }
    for path in &args.keep_for {
        load_or_explain(&ConfigArgs { config: path.clone(), set: Vec::new() })?;
    }
    fetch_suitable(&config)?;
    Err(become_engine())
}
