//! `sdtrain check`: what a configuration would do, without doing it.

mod optimizer_notes;
mod summary;
mod trained_parts;
mod warnings;

use std::path::Path;

use sdtrain_config::{Parsed, Problems};
use sdtrain_data_loader::{DataError, DataSet, Rank, TokenWindow};
use sdtrain_recipe::{DataConfig, Init, Loaded, ModelConfig, Plan, TrainConfig};
use sdtrain_state_dict::{Family, open_file, recognise};
use sdtrain_tokenizer::{Misfit, Tokenizer};

use crate::args::{CheckArgs, ConfigArgs};
use crate::hub_files::{HubFiles, local_file};
use crate::model_parts::ModelParts;
use crate::room::{self, Length};
use crate::{ExitCode, Failure, default_output, learned_words, model_tokenizer, print_answer};

use summary::summary;
use trained_parts::TrainedParts;

pub(crate) use summary::millions;
pub(crate) use trained_parts::trained_parts;

/// The step between bucket sides when nothing is known of the model: that of SD1.5.
const USUAL_BUCKET_STEP: usize = 64;

/// Prints the summary of each run to stdout.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let plan = plan_or_explain(&args.config())?;
    let on_hub = HubFiles::of_plan(&plan)?;
    on_hub.fetch_small_undescribed()?;
    let (examined, to_fetch) = (examine_all(&plan)?, on_hub.missing());
    for (index, (run, examined)) in plan.runs.iter().zip(&examined).enumerate() {
        let config = &run.loaded.config;
        let Examined { parts, data, trained } = examined;
        let tokenizer = model_tokenizer::of(&config.model)?;
        let doubt = doubt(&config.model, &tokenizer, parts);
        let tokenizer = learned_words::tokenizer(config, tokenizer)?;
        let limit = model_tokenizer::token_limit(&tokenizer, config.model.max_token_length)?;
        let window = TokenWindow { tokenizer: &tokenizer, limit, prompt_weights: config.model.prompt_weights };
        let tokens = data.count_tokens(window);
        if let Some(stage) = &run.stage {
            let blank = if index == 0 { "" } else { "\n" };
            let begins = match index {
                0 => String::new(),
                _ => format!(
                    ", begins with the product of `{}`",
                    plan.runs[index - 1].stage.as_deref().unwrap_or_default()
                ),
            };
            print_answer(&format!("{blank}{:<10} `{stage}`, {} of {}{begins}\n", "stage", index + 1, plan.runs.len()));
        }
        let windows = tokenizer.windows_of(max_token_length(config))?;
        let output = plan.folder(index, &default_output(&plan.name));
        let disk = room::in_summary(config, trained.sum(), parts, data, &output);
        print_answer(&summary(config, examined, &tokens, &to_fetch, windows * tokenizer.window(), &disk));
        if let Some(doubt) = doubt {
            print_answer(&format!("{:<10} `{}`: {doubt}\n", "warning", config.model.path));
        }
    }
    Ok(())
}

/// What a run would begin with.
pub(crate) struct Examined {
    parts: ModelParts,
    data: DataSet,
    trained: TrainedParts,
}

impl Examined {
    /// Refuses an output folder on a disk without room for its run, which may begin anew.
    pub(crate) fn check_room(&self, config: &TrainConfig, output: &Path, begins_anew: bool) -> Result<(), Failure> {
        room::check(config, self.trained.sum(), &self.parts, Length::of_data(config, &self.data), output, begins_anew)
    }

    /// What of `config` its run never comes to, beside what the run says itself.
    pub(crate) fn warnings(&self, config: &TrainConfig) -> Vec<String> {
        warnings::warnings(config, self.trained.sum(), self.data.total_steps(&config.train))
    }
}

/// Refuses an output folder on a disk without room for its run, where the model is here: what is wrong with that is said when all is looked
/// at, and what a run in epochs writes on its way is counted then.
pub(crate) fn check_room_ahead(config: &TrainConfig, output: &Path, begins_anew: bool) -> Result<(), Failure> {
    let Ok(parts) = ModelParts::of(&config.model) else { return Ok(()) };
    let Ok(trained) = trained_parts(config, &parts) else { return Ok(()) };
    room::check(config, trained.sum(), &parts, Length::of_config(config), output, begins_anew)
}

/// Looks at everything that the runs of a plan read; whatever is wrong is in the one failure, what all stages share once.
pub(crate) fn examine_all(plan: &Plan) -> Result<Vec<Examined>, Failure> {
    let (mut found, mut failures): (Vec<Examined>, Vec<Failure>) = Default::default();
    for run in &plan.runs {
        match examine(&run.loaded.config) {
            Ok(examined) => found.push(examined),
            Err(mut failure) => {
                failure.problems.0.retain(|problem| !failures.iter().any(|other| other.problems.0.contains(problem)));
                failures.push(failure);
            }
        }
    }
    failures.into_iter().reduce(Failure::and).map_or(Ok(found), Err)
}

/// Looks at everything that a run reads, without a tensor; whatever is wrong is in the one failure.
fn examine(config: &TrainConfig) -> Result<Examined, Failure> {
    let parts = ModelParts::of(&config.model);
    let step = parts.as_ref().map_or(USUAL_BUCKET_STEP, ModelParts::bucket_step);
    let mut failures = Vec::new();
    let mut keep = |failure: Failure| failures.push(failure);
    let trained = parts.as_ref().ok().map(|parts| trained_parts(config, parts));
    let parts = parts.map_err(&mut keep).ok();
    let mut data = open_data(config, step).map_err(&mut keep).ok();
    if let Err((message, hint)) = config.data.check_images_are_used() {
        keep(Failure::new(ExitCode::Configuration, message).hint(hint));
    }
    let tokenizer = model_tokenizer::of(&config.model);
    if let Some(parts) = &parts {
        let checked = tokenizer.as_ref().map_err(Failure::clone);
        let _ = checked.and_then(|tokenizer| check_vocabulary(&config.model, tokenizer, parts)).map_err(&mut keep);
    }
    if let (Ok(tokenizer), Some(data)) = (&tokenizer, &data) {
        let _ = learned_words::check(config, tokenizer, data).map_err(&mut keep);
    }
    if let (Some(length), Ok(tokenizer)) = (max_token_length(config), &tokenizer) {
        let _ = tokenizer.windows_of(Some(length)).map_err(|error| keep(error.into()));
    }
    if let Some(path) = &config.validation.path {
        let subsets = vec![config.held_out_subset(path)];
        let held_out = DataConfig { subsets, batch_size: 1, ..config.data.clone() };
        let held_out = DataSet::open(&held_out, config.seed, step).map_err(|error| keep(error.into())).ok();
        if let Some(held_out) = held_out {
            data = data.map(|data| data.compared_with(&held_out));
        }
    }
    // Where the steps are written down, the configuration is refused as such.
    if let Some(data) = data.as_ref().filter(|_| config.train.max_steps.is_none())
        && let Some((_, message, hint)) = config.length_refused(data.total_steps(&config.train))
    {
        keep(Failure::new(ExitCode::Configuration, message).hint(hint));
    }
    let trained = trained.and_then(|trained| trained.map_err(&mut keep).ok());
    for (index, fused) in config.model.fuse.iter().enumerate() {
        let _ = is_adapter(&format!("model.fuse.{index}.path"), &fused.path).map_err(&mut keep);
    }
    if let Some(parts) = &parts {
        let _ = check_unet_input(config, parts).map_err(&mut keep);
        let _ = check_sample_sizes(config, parts.downscale_factor()).map_err(&mut keep);
        let _ = check_samples_of(config, parts.family).map_err(&mut keep);
    }
    match (failures.into_iter().reduce(Failure::and), parts, data, trained) {
        (None, Some(parts), Some(data), Some(trained)) => Ok(Examined { parts, data, trained }),
        (failure, ..) => Err(failure.expect("what is missing has failed")),
    }
}

/// That the UNet takes in what a run gives it.
fn check_unet_input(config: &TrainConfig, parts: &ModelParts) -> Result<(), Failure> {
    match config.unet_input_refused(parts.unet_channels()) {
        None => Ok(()),
        Some((message, hint)) => Err(Failure::new(ExitCode::Configuration, message).hint(hint)),
    }
}

/// The same where the model is here, for commands that look at nothing else of it: what else is wrong with it is said when it is loaded.
pub(crate) fn check_unet_input_of(config: &TrainConfig) -> Result<(), Failure> {
    ModelParts::of(&config.model).map_or(Ok(()), |parts| check_unet_input(config, &parts))
}

/// Whether the weights of a run's text encoder are drawn.
fn draws_text_encoder(model: &ModelConfig) -> bool {
    match model.text_encoder {
        Some(_) => model.text_encoder_init == Init::Random,
        None => model.init == Init::Random,
    }
}

/// What speaks against the tokenizer and the text encoder of a run being of one model, if anything.
fn misfit(model: &ModelConfig, tokenizer: &dyn Tokenizer, parts: &ModelParts) -> Option<Misfit> {
    // A folder whose weights are to be drawn may have its tokenizer yet to come.
    if draws_text_encoder(model) && model.text_encoder.is_none() && model.tokenizer.is_none() {
        return None;
    }
    Misfit::of(tokenizer, parts.word_table()?)
}

/// The same in words where a run begins in spite of it.
fn doubt(model: &ModelConfig, tokenizer: &dyn Tokenizer, parts: &ModelParts) -> Option<String> {
    let misfit = misfit(model, tokenizer, parts)?;
    match (&misfit, draws_text_encoder(model)) {
        (_, false) => Some(misfit.in_words("tokenizer", "text encoder")),
        (Misfit::SpareRows { tokens, rows }, true) if misfit.is_certain() => Some(format!(
            "{rows} words are drawn for a tokenizer of {tokens}; `\"vocab_size\": {tokens}` in the `config.json` of the text encoder draws \
             no more than it reads"
        )),
        (_, true) => None,
    }
}

/// That the tokenizer is that of the text encoder, as far as it can be told.
fn check_vocabulary(model: &ModelConfig, tokenizer: &dyn Tokenizer, parts: &ModelParts) -> Result<(), Failure> {
    let counts = |misfit: &Misfit| misfit.is_certain() && (!draws_text_encoder(model) || misfit.counts_for_drawn());
    let Some(misfit) = misfit(model, tokenizer, parts).filter(counts) else { return Ok(()) };
    let message = format!("`{}`: {}", model.path, misfit.in_words("tokenizer", "text encoder"));
    Err(Failure::new(ExitCode::Model, message).hint(
        "`model.tokenizer` names the folder of its own; to learn the words of another tokenizer name a text encoder that reads them \
         (`model.text_encoder`), or one whose weights are drawn (`model.text_encoder_init = \"random\"`)",
    ))
}

fn max_token_length(config: &TrainConfig) -> Option<usize> {
    config.model.max_token_length.map(|length| length as usize)
}

fn is_adapter(key: &str, path: &Path) -> Result<(), Failure> {
    let kind = recognise(&open_file(local_file(path)?)?);
    if kind.is_adapter() {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Model, format!("`{key}`: `{}` is a {kind}, not a LoRA", path.display())))
}

/// That the model can draw what a run draws: pictures of noise alone.
fn check_samples_of(config: &TrainConfig, family: Family) -> Result<(), Failure> {
    if family.makes_pictures_of_noise() {
        return Ok(());
    }
    let refused = |key: &str, hint: &str| {
        let message =
            format!("`{key}`: a model of the {} family goes on from a picture, and a run has none", family.title());
        Err(Failure::new(ExitCode::Configuration, message).hint(hint))
    };
    if !config.sample_pictures().is_empty() {
        let hint = "leave `samples.prompts` out; `sdtrain sample --init-image` draws with what was trained";
        return refused("samples", hint);
    }
    if config.uses_class_images() && config.dreambooth.class_data_dir.is_none() {
        let hint = "name a folder with pictures of the class in `dreambooth.class_data_dir`, or set `dreambooth.prior = \"base_prediction\"`";
        return refused("dreambooth.prior", hint);
    }
    Ok(())
}

fn check_sample_sizes(config: &TrainConfig, factor: usize) -> Result<(), Failure> {
    let fits = |side: u32| (side as usize).is_multiple_of(factor);
    let Some(picture) = config.sample_pictures().into_iter().find(|p| !fits(p.width) || !fits(p.height)) else {
        return Ok(());
    };
    let (width, height) = (picture.width, picture.height);
    let message =
        format!("pictures of {width} × {height} cannot be drawn: the model needs multiples of {factor} pixels");
    Err(Failure::new(ExitCode::Configuration, message)
        .hint("set `samples.width` and `samples.height`, or another `data.resolution`"))
}

/// The configuration of a file that describes one run; when it is wrong, the failure also names what is wrong with the images, where
/// those can be looked at.
pub(crate) fn load_or_explain(args: &ConfigArgs) -> Result<Loaded, Failure> {
    let parsed = TrainConfig::load_what_fits(&args.config, &args.set)?;
    let data_failure = data_failure(&parsed, |loaded| loaded);
    match parsed.value {
        Some(loaded) if parsed.faults.is_empty() => Ok(loaded),
        _ => Err(explained(Problems(parsed.faults.into_iter().map(|fault| fault.problem).collect()), data_failure)),
    }
}

/// The runs that a file describes; when something is wrong with one, as [`load_or_explain`].
pub(crate) fn plan_or_explain(args: &ConfigArgs) -> Result<Plan, Failure> {
    let parsed = Plan::load_what_fits(&args.config, &args.set)?;
    let data_failures: Vec<DataError> =
        parsed.runs.iter().filter_map(|(_, run)| data_failure(run, |run| &run.loaded)).collect();
    let problems = parsed.problems();
    parsed.whole().ok_or_else(|| explained(problems, data_failures))
}

/// What is wrong with the images of a configuration in which something else is wrong.
fn data_failure<T>(parsed: &Parsed<T>, loaded: fn(&T) -> &Loaded) -> Option<DataError> {
    let config = &loaded(parsed.value.as_ref()?).config;
    let can_be_looked_at = !parsed.faults.is_empty() && !parsed.is_faulty("data");
    can_be_looked_at.then(|| DataSet::open(&config.data, config.seed, USUAL_BUCKET_STEP).err())?
}

/// One failure of all that is wrong, everything once.
fn explained(problems: Problems, data: impl IntoIterator<Item = DataError>) -> Failure {
    data.into_iter().fold(Failure::from(problems), |failure, error| {
        let mut more = Failure::from(error);
        more.problems.0.retain(|problem| !failure.problems.0.contains(problem));
        failure.and(more)
    })
}

fn open_data(config: &TrainConfig, bucket_step: usize) -> Result<DataSet, Failure> {
    let split = config.validation.split.filter(|_| config.validation.path.is_none());
    let data = match split {
        Some(part) => DataSet::open_split(&config.data, config.seed, bucket_step, part)?.0,
        None => DataSet::open(&config.data, config.seed, bucket_step)?,
    };
    match usize::try_from(config.train.ranks()) {
        Ok(world) if world > 1 => Ok(data.for_ranks(&Rank::played_by(0, 1, world)?)?),
        _ => Ok(data),
    }
}
