//! `sdtrain train`: the run of a configuration, or its stages one after the other.

use crate::failure;
use sdtrain::args::{Resume, TrainArgs};
use sdtrain::{ExitCode, Failure, default_output, too_little_memory};
use sdtrain_checkpoint::FolderLock;
use sdtrain_files::say;
use sdtrain_ranks::{Place, recognise_environment};
use sdtrain_recipe::{Plan, TrainConfig};
use sdtrain_signals::StopRequest;
use sdtrain_trainer::{
    Outcome, Ranks, ResumePolicy, RunOptions, finished_as, is_from_another, misses_product, move_aside, train_together,
};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Trains, samples and evaluates as the configuration says.
pub fn run(args: &TrainArgs) -> Result<(), Failure> {
    let asked = args.config();
    let plan = Plan::load(&asked.config, &asked.set)?;
    let recognised = recognise_environment();
    let place = recognised.map_err(|error| Failure::new(ExitCode::Configuration, error.to_string()))?.place;
    // From here on, also while the others are waited for.
    let stop = StopRequest::listen().map_err(|error| {
        Failure::new(ExitCode::Internal, format!("the system does not let signals be handled: {error}"))
    })?;
    let ranks = join(place.as_ref(), &plan)?;
    let result = train(args, &plan, &stop, place.as_ref(), &ranks);
    if let Err(failure) = &result
        && failure.code != ExitCode::Stopped
    {
        ranks.fail(&failure.problems.0.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; "));
    }
    ranks.leave();
    result
}

/// The ranks of the run, all of which are there from here on.
fn join(place: Option<&Place>, plan: &Plan) -> Result<Rc<Ranks>, Failure> {
    let alone = || Rc::new(Ranks::alone());
    let Some(place) = place else { return Ok(alone()) };
    let config = plan.runs.first().map(|run| run.loaded.config.ranks.clone()).unwrap_or_default();
    Ranks::join(place, &config).map(Rc::new).map_err(failure::of)
}

fn train(
    args: &TrainArgs,
    plan: &Plan,
    stop: &StopRequest,
    place: Option<&Place>,
    ranks: &Rc<Ranks>,
) -> Result<(), Failure> {
    let output = args.output.clone().unwrap_or_else(|| default_output(&plan.name));
    let has_stages = plan.runs.iter().any(|run| run.stage.is_some());
    // As long as this lives, nobody else trains them; each stage locks its own folder as well.
    let _lock = (has_stages && ranks.is_lead()).then(|| take_folder(plan, &output, &args.resume)).transpose()?;
    ranks.follow_lead("folder").map_err(failure::of)?;
    // The stage before, as it ran, and where it lies.
    let mut before: Option<(TrainConfig, PathBuf)> = None;
    for (index, run) in plan.runs.iter().enumerate() {
        let folder = plan.folder(index, &output);
        let mut config = match &before {
            Some((config, folder)) => run.after(config, folder),
            None => run.loaded.config.clone(),
        };
        let is_last = index + 1 == plan.runs.len();
        if !is_last {
            // The next stage begins with what lies there, or has begun with it.
            config = finished_as(&config, &folder).unwrap_or(config);
        }
        let resume = match policy(&args.resume, has_stages.then_some(folder.as_path())) {
            ResumePolicy::Auto if !is_last && is_done(plan, index + 1, &output).map_err(failure::of)? => {
                ResumePolicy::LeaveFinished
            }
            asked => asked,
        };
        let options = RunOptions { output: folder.clone(), device: device_of(&args.device.to_string(), place), resume };
        if let Some(stage) = &run.stage {
            say!("stage {} of {}: `{stage}`", index + 1, plan.runs.len());
        }
        let explained = |error| {
            let failure = failure::of_run(error, &config);
            match (failure.code, failure.problems.0.first()) {
                (ExitCode::DeviceMemory, Some(problem)) => too_little_memory(&args.config, index, &problem.message),
                _ => failure,
            }
        };
        let outcome = train_together(stop, config.clone(), &options, ranks).map_err(explained)?;
        stop.end();
        match outcome {
            Outcome::Done(_) => {}
            Outcome::AlreadyDone => {
                let product = before.as_ref().map(|(before, folder)| before.product_in(folder));
                if let Some(product) = product.filter(|product| is_from_another(product, &folder)) {
                    return Err(follows_from_another(&folder, &product));
                }
                let anew = match has_stages {
                    true => "moves all stages aside and trains them anew",
                    false => "trains it anew",
                };
                say!("`{}` holds this run, finished; `--resume never` {anew}", folder.display());
            }
            Outcome::Stopped(step) => {
                say!("stopped after step {step}; {} continues", same_command(&args.resume));
                return Err(stopped());
            }
        }
        if !is_last && ranks.agree(stop).map_err(failure::of)?.stop {
            say!("stopped behind this stage; {} goes on with the next", same_command(&args.resume));
            return Err(stopped());
        }
        before = Some((config, std::path::absolute(&folder).unwrap_or(folder)));
    }
    Ok(())
}

/// The device of a rank: where several share a machine and nobody chose one, that of its own number there.
fn device_of(asked: &str, place: Option<&Place>) -> String {
    let local = place.filter(|place| place.local_world_size > 1).map(|place| place.local_rank);
    match (asked, local) {
        ("auto", Some(rank)) if sdtrain_torch::device("auto").is_ok_and(|device| device.is_cuda()) => {
            local_device(rank)
        }
        ("cuda", Some(rank)) => local_device(rank),
        _ => asked.to_owned(),
    }
}

/// The GPU of a rank among those that it sees: some launchers show each rank its own alone.
fn local_device(local_rank: usize) -> String {
    let seen = usize::try_from(tch::Cuda::device_count()).unwrap_or(0).max(1);
    format!("cuda:{}", local_rank % seen)
}

/// Takes the folder of all stages for this process, moved aside before if they are to begin anew: a later stage must not be taken for
/// one that follows from what is trained now.
fn take_folder(plan: &Plan, output: &Path, resume: &Resume) -> Result<FolderLock, Failure> {
    let lock = || FolderLock::acquire(output).map_err(|error| failure::of(error.into()));
    let mut held = lock()?;
    match resume {
        Resume::Never if (0..plan.runs.len()).any(|run| plan.folder(run, output).exists()) => {
            move_aside(output).map_err(failure::of)?;
            held = lock()?;
        }
        Resume::From(path) => {
            if !(0..plan.runs.len()).any(|run| is_inside(path, &plan.folder(run, output))) {
                let message = format!("`--resume {}` lies in the folder of no stage", path.display());
                let hint = format!("checkpoints of this training are in `{}/STAGE/checkpoints`", output.display());
                return Err(Failure::new(ExitCode::Configuration, message).hint(hint));
            }
        }
        Resume::Auto | Resume::Never => {}
    }
    Ok(held)
}

/// The command that goes on with a run which was started like this: one that begins anew, or goes back, would do so again.
fn same_command(resume: &Resume) -> &'static str {
    match resume {
        Resume::Auto => "the same command",
        Resume::Never | Resume::From(_) => "the same command with `--resume auto`",
    }
}

/// What happens to the folder of a run; that of a `stage` is meant by a checkpoint in it.
fn policy(resume: &Resume, stage: Option<&Path>) -> ResumePolicy {
    match (resume, stage) {
        // It has been moved aside with the others.
        (Resume::Auto, _) | (Resume::Never, Some(_)) => ResumePolicy::Auto,
        (Resume::Never, None) => ResumePolicy::Never,
        (Resume::From(path), Some(folder)) if !is_inside(path, folder) => ResumePolicy::Auto,
        (Resume::From(path), _) => ResumePolicy::From(path.clone()),
    }
}

fn is_inside(path: &Path, folder: &Path) -> bool {
    path.canonicalize().ok().zip(folder.canonicalize().ok()).is_some_and(|(path, folder)| path.starts_with(folder))
}

fn follows_from_another(folder: &Path, product: &Path) -> Failure {
    let message = format!(
        "`{}` holds this run, finished, but it began with other content of `{}` than lies there now",
        folder.display(),
        product.display()
    );
    Failure::new(ExitCode::Model, message)
        .hint("move the folder away to train this stage and those after it anew, or everything with `--resume never`")
}

/// Whether nothing is left to do for the stage at `index` and those behind it, so that none of them asks for the product of the one before.
fn is_done(plan: &Plan, index: usize, output: &Path) -> sdtrain_trainer::Result<bool> {
    let (asked, folder) = (&plan.runs[index].loaded.config, plan.folder(index, output));
    let Some(finished) = finished_as(asked, &folder) else { return Ok(false) };
    Ok(match index + 1 == plan.runs.len() {
        true => !misses_product(asked, &folder)?,
        false => !misses_product(&finished, &folder)? || is_done(plan, index + 1, output)?,
    })
}

/// Everything is said; only the code is left to tell.
fn stopped() -> Failure {
    Failure { problems: Default::default(), code: ExitCode::Stopped }
}
