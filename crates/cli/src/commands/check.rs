//! `sdtrain check`: what a configuration would do, without doing it.

mod summary;
mod trained_parts;

use std::path::Path;

use sdtrain_config::{Parsed, Problems};
use sdtrain_data_loader::{DataSet, TokenWindow};
use sdtrain_recipe::{DataConfig, Loaded, TrainConfig};
use sdtrain_state_dict::{FileKind, open_file, recognise};
use sdtrain_tokenizer::Tokenizer;

use crate::args::{CheckArgs, ConfigArgs};
use crate::estimate::Trained;
use crate::model_parts::ModelParts;
use crate::{ExitCode, Failure, learned_words, model_tokenizer, print_answer};

use summary::summary;
use trained_parts::{TrainedParts, trained_parts};

pub(crate) use summary::millions;

/// The step between bucket sides when nothing is known of the model: that of SD1.5.
const USUAL_BUCKET_STEP: usize = 64;

/// Prints the summary to stdout.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let config = load_or_explain(&args.config())?.config;
    let Examined { parts, data, trained } = examine(&config)?;
    let tokenizer = learned_words::tokenizer(&config, model_tokenizer::of(&config.model)?)?;
    let limit = model_tokenizer::token_limit(&tokenizer, config.model.max_token_length)?;
    let window = TokenWindow { tokenizer: &tokenizer, limit, prompt_weights: config.model.prompt_weights };
    let tokens = data.count_tokens(window);
    print_answer(&summary(&config, &parts, &trained, &data, &tokens));
    Ok(())
}

/// What a run would begin with.
pub(crate) struct Examined {
    parts: ModelParts,
    data: DataSet,
    trained: TrainedParts,
}

impl Examined {
    /// What learns.
    pub(crate) fn trained(&self) -> Trained {
        self.trained.sum()
    }
}

/// Looks at everything that a run reads, without a tensor; whatever is wrong is in the one failure.
pub(crate) fn examine(config: &TrainConfig) -> Result<Examined, Failure> {
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
    if let (Ok(tokenizer), Some(data)) = (model_tokenizer::of(&config.model), &data) {
        let _ = learned_words::check(config, &tokenizer, data).map_err(&mut keep);
    }
    if let (Some(length), Ok(tokenizer)) = (max_token_length(config), model_tokenizer::of(&config.model)) {
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
    let trained = trained.and_then(|trained| trained.map_err(&mut keep).ok());
    for (index, fused) in config.model.fuse.iter().enumerate() {
        let _ = is_adapter(&format!("model.fuse.{index}.path"), &fused.path).map_err(&mut keep);
    }
    if let Some((message, hint)) = parts.as_ref().and_then(|parts| config.unet_input_refused(parts.unet_channels())) {
        keep(Failure::new(ExitCode::Configuration, message).hint(hint));
    }
    if let Some(parts) = &parts {
        let _ = check_sample_sizes(config, parts.downscale_factor()).map_err(&mut keep);
    }
    match (failures.into_iter().reduce(Failure::and), parts, data, trained) {
        (None, Some(parts), Some(data), Some(trained)) => Ok(Examined { parts, data, trained }),
        (failure, ..) => Err(failure.expect("what is missing has failed")),
    }
}

fn max_token_length(config: &TrainConfig) -> Option<usize> {
    config.model.max_token_length.map(|length| length as usize)
}

fn is_adapter(key: &str, path: &Path) -> Result<(), Failure> {
    let kind = recognise(&open_file(path)?);
    if matches!(kind, FileKind::KohyaLora { .. } | FileKind::PeftLora { .. }) {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Model, format!("`{key}`: `{}` is a {kind}, not a LoRA", path.display())))
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

/// The configuration; when it is wrong, the failure also names what is wrong with the images, where those can be looked at.
pub(crate) fn load_or_explain(args: &ConfigArgs) -> Result<Loaded, Failure> {
    let Parsed { value, faults } = TrainConfig::load_what_fits(&args.config, &args.set)?;
    let parsed = Parsed { value, faults };
    let data_failure = match &parsed.value {
        Some(loaded) if !parsed.faults.is_empty() && !parsed.is_faulty("data") => {
            DataSet::open(&loaded.config.data, loaded.config.seed, USUAL_BUCKET_STEP).err()
        }
        _ => None,
    };
    match parsed.value {
        Some(loaded) if parsed.faults.is_empty() => Ok(loaded),
        _ => {
            let problems = Problems(parsed.faults.into_iter().map(|fault| fault.problem).collect());
            let failure = Failure::from(problems);
            Err(match data_failure {
                Some(error) => failure.and(error.into()),
                None => failure,
            })
        }
    }
}

fn open_data(config: &TrainConfig, bucket_step: usize) -> Result<DataSet, Failure> {
    let split = config.validation.split.filter(|_| config.validation.path.is_none());
    Ok(match split {
        Some(part) => DataSet::open_split(&config.data, config.seed, bucket_step, part)?.0,
        None => DataSet::open(&config.data, config.seed, bucket_step)?,
    })
}
