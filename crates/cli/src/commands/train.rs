//! `sdtrain train`: checks the configuration, then becomes the engine.

use crate::args::{ConfigArgs, Resume, TrainArgs};
use crate::commands::check::{check_room_ahead, check_unet_input_of, examine_all, load_or_explain, plan_or_explain};
use crate::engine::become_engine;
use crate::hub_files::HubFiles;
use crate::{ExitCode, Failure, output_folder};
use sdtrain_files::say;
use sdtrain_ranks::recognise_environment;
use sdtrain_recipe::TrainConfig;
use std::io;
use std::path::{Path, PathBuf};

/// Comes back only with a failure.
pub(crate) fn run(args: &TrainArgs) -> Result<(), Failure> {
    sdtrain_signals::end_at_once().map_err(no_signals)?;
    // A process that does not know which one it is would train beside the others, or wait for them.
    let place = recognise_environment()?.place_to_train_in()?;
    if let Resume::From(path) = &args.resume
        && !path.exists()
    {
        let message = format!("`--resume {}` does not exist", path.display());
        return Err(Failure::new(ExitCode::Model, message).hint("it is `auto`, `never` or the path of a checkpoint"));
    }
    // Before half a second goes into loading libtorch, and before anything is written.
    let plan = plan_or_explain(&args.config())?;
    let output = args.output.clone().unwrap_or_else(|| default_output(&plan.name));
    // Rank 0 alone takes the folder. Where another rank was lost and is back before its absence was noticed, the ranks that lost it
    // still hold it, and it waits for those that are started after them.
    if place.is_none_or(|place| place.rank == 0) {
        output_folder::look(&plan, &output, &args.resume)?;
    }
    // A model that is here says how much it takes before the images are looked through. What is wrong with it is said below, with all
    // the rest.
    let begins_anew = args.resume == Resume::Never;
    for (index, run) in plan.runs.iter().enumerate() {
        check_room_ahead(&run.loaded.config, &plan.folder(index, &output), begins_anew)?;
    }
    let on_hub = HubFiles::of_plan(&plan)?;
    on_hub.fetch_undescribed()?;
    for (index, examined) in examine_all(&plan)?.iter().enumerate() {
        let config = &plan.runs[index].loaded.config;
        examined.check_room(config, &plan.folder(index, &output), begins_anew)?;
        for warning in examined.warnings(config) {
            say!("warning: {warning}");
        }
    }
    on_hub.fetch()?;
    // From here on until the engine listens nobody would answer.
    sdtrain_signals::hold_back().map_err(no_signals)?;
    Err(become_engine())
}

fn no_signals(error: io::Error) -> Failure {
    Failure::new(ExitCode::Internal, format!("the system does not let signals be handled: {error}"))
}

/// Where a run writes to unless told otherwise.
pub fn default_output(name: &str) -> PathBuf {
    Path::new("outputs").join(name)
}

/// Refuses a wrong configuration at once, before half a second goes into loading libtorch, and fetches what it names on the hub.
pub(crate) fn checked(config: &ConfigArgs) -> Result<(), Failure> {
    fetch_suitable(&load_or_explain(config)?.config)?;
    Err(become_engine())
}

/// Fetches what a configuration names on the hub, but for a model that cannot be asked for what the run asks for.
pub(crate) fn fetch_suitable(config: &TrainConfig) -> Result<(), Failure> {
    let on_hub = HubFiles::of_config(config)?;
    on_hub.fetch_undescribed()?;
    check_unet_input_of(config)?;
    on_hub.fetch()
}
