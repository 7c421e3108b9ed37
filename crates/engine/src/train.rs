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
    Outcome, Ranks, ResumePolicy, RunOptions, has_all_steps, has_begun, is_from_another, misses_product, move_aside,
    train_together, with_kept_product,
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
    let folders: Vec<PathBuf> = (0..plan.runs.len()).map(|index| plan.folder(index, &output)).collect();
    let configs = configurations(plan, &folders);
    let left_alone = left_alone(&configs, &folders, &args.resume).map_err(failure::of)?;
    for (index, run) in plan.runs.iter().enumerate() {
        let (config, folder) = (&configs[index], &folders[index]);
        let is_last = index + 1 == plan.runs.len();
        let resume = match policy(&args.resume, has_stages.then_some(folder.as_path())) {
            ResumePolicy::Auto if left_alone[index] => ResumePolicy::LeaveFinished,
            asked => asked,
        };
        let options = RunOptions { output: folder.clone(), device: device_of(&args.device.to_string(), place), resume };
        if let Some(stage) = &run.stage {
            say!("stage {} of {}: `{stage}`", index + 1, plan.runs.len());
        }
        let explained = |error| {
            let failure = failure::of_run(error, config);
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
                let before = index.checked_sub(1);
                let product = before.map(|before| configs[before].product_in(&absolute(&folders[before])));
                if let Some(product) = product.filter(|product| is_from_another(product, folder)) {
                    return Err(follows_from_another(folder, &product));
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

/// The configuration of each run as it is asked for now: a stage begins with the product of the one before.
fn configurations(plan: &Plan, folders: &[PathBuf]) -> Vec<TrainConfig> {
    let mut configs: Vec<TrainConfig> = Vec::new();
    for (index, run) in plan.runs.iter().enumerate() {
        let config = match configs.last() {
            Some(before) => run.after(before, &absolute(&folders[index - 1])),
            None => run.loaded.config.clone(),
        };
        let (folder, behind) = (&folders[index], &folders[index + 1..]);
        let is_followed = behind.iter().any(|folder| has_begun(folder));
        configs.push(match behind.is_empty() {
            // The next stage begins with what lies there, or has begun with it.
            false => with_kept_product(config, folder, is_followed),
            true => config,
        });
    }
    configs
}

/// Which runs are left alone without their product, where they are finished: those that nothing which is left to do begins with.
fn left_alone(configs: &[TrainConfig], folders: &[PathBuf], resume: &Resume) -> sdtrain_trainer::Result<Vec<bool>> {
    let count = configs.len();
    // Whether nothing is left to do for a stage. Nobody asks the first.
    let mut is_done = vec![false; count];
    let mut left_alone = vec![false; count];
    for index in (0..count).rev() {
        let (config, folder) = (&configs[index], &folders[index]);
        let place = absolute(folder);
        // A base is handed on, so that not the next one alone may need it.
        let needs_none = |later: usize| is_done[later] || !configs[later].begins_with_something_in(&place);
        left_alone[index] = index + 1 < count && (index + 1..count).all(needs_none);
        let goes_back = matches!(resume, Resume::From(path) if is_inside(path, folder));
        is_done[index] = index > 0
            && !goes_back
            && has_all_steps(config, folder)
            && (left_alone[index] || !misses_product(config, folder)?);
    }
    Ok(left_alone)
}

fn absolute(folder: &Path) -> PathBuf {
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf())
}

/// Everything is said; only the code is left to tell.
fn stopped() -> Failure {
    Failure { problems: Default::default(), code: ExitCode::Stopped }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_recipe::TrainableKind;
    use std::fs;

    /// Three finished stages in their folders: a model, adapters on it, and those trained on.
    fn finished(scratch: &Path) -> (Vec<TrainConfig>, Vec<PathBuf>) {
        let kinds = [TrainableKind::Full, TrainableKind::Lora, TrainableKind::Lora];
        let of_kind = |kind| TrainConfig { name: "run".into(), trainable: Some(kind), ..TrainConfig::default() };
        let mut configs = kinds.map(of_kind);
        let folders = ["whole", "first", "second"].map(|name| scratch.join(name));
        let base = configs[0].product_in(&folders[0]).display().to_string();
        configs[1].model.path.clone_from(&base);
        configs[2].model.path = base;
        configs[2].lora.initial = Some(configs[1].product_in(&folders[1]));
        for (config, folder) in configs.iter().zip(&folders) {
            fs::create_dir(folder).expect("there is room");
            fs::write(config.product_in(folder), "weights").expect("there is room");
            fs::write(folder.join("config.toml"), config.to_toml()).expect("there is room");
            fs::write(folder.join("run.json"), "{\"outcome\": \"finished\"}").expect("there is room");
        }
        (configs.into(), folders.into())
    }

    #[test]
    fn a_finished_stage_is_left_alone_where_nothing_left_to_do_begins_with_it() {
        const ALL: [bool; 3] = [true, true, false];
        const NONE: [bool; 3] = [false; 3];
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let (configs, folders) = finished(scratch.path());
        let left = |configs: &[TrainConfig], resume: &Resume| {
            left_alone(configs, &folders, resume).unwrap_or_else(|error| panic!("{error}"))
        };
        for stage in [0, 1] {
            fs::remove_file(configs[stage].product_in(&folders[stage])).expect("it is there");
            assert_eq!(left(&configs, &Resume::Auto), ALL, "all is done");
        }
        // That of the stage between is what the last one begins with, and its base that of the first.
        let mut longer = configs.clone();
        longer[2].train.max_steps = Some(12);
        longer[2].checkpoint.allow_changes = vec!["train.max_steps".into()];
        assert_eq!(left(&longer, &Resume::Auto), NONE, "the last one is prolonged");
        assert_eq!(left(&configs, &Resume::From(folders[2].clone())), NONE, "the last one goes back");
        fs::write(configs[1].product_in(&folders[1]), "weights").expect("there is room");
        assert_eq!(left(&longer, &Resume::Auto), NONE, "its base is the first one's product");
        longer[2].model.path = "builtin:poster-tiny".into();
        assert_eq!(left(&longer, &Resume::Auto), [true, false, false], "it has a base of its own");
        fs::remove_dir_all(&folders[2]).expect("it is there");
        assert_eq!(left(&configs, &Resume::Auto), NONE, "the last one has not begun");
    }
}
