//! `sdtrain dataset`: looks at folders of images and captions, cleans them, and encodes them ahead.

mod cache;
mod clean;
mod inspect;
mod progress;

use std::path::PathBuf;

use sdtrain_dataset_report::Error;
use sdtrain_recipe::{DataConfig, MissingCaption, Subset};
use sdtrain_tokenizer::PromptTokenizer;

use crate::args::{ConfigArgs, DatasetArgs, DatasetCommand};
use crate::commands::check::load_or_explain;
use crate::model_parts::ModelParts;
use crate::{ExitCode, Failure, learned_words, model_tokenizer};

/// Runs one of its commands.
pub(crate) fn run(args: &DatasetArgs) -> Result<(), Failure> {
    match &args.command {
        DatasetCommand::Inspect(args) => inspect::run(args),
        DatasetCommand::Clean(args) => clean::run(args),
        DatasetCommand::Cache(args) => cache::run(args),
    }
}

/// Sides of buckets are multiples of this where no model says otherwise.
const BUCKET_STEP: usize = 64;

/// What is looked at: the data of a configuration, or a folder by itself.
struct Wanted {
    data: DataConfig,
    seed: u64,
    bucket_step: usize,
    tokenizer: PromptTokenizer,
    /// Tokens of a caption that the model reads.
    token_limit: usize,
    /// Whether brackets in captions are weights.
    prompt_weights: bool,
}

impl Wanted {
    fn of(folder: Option<&PathBuf>, config: Option<&PathBuf>, set: &[String]) -> Result<Wanted, Failure> {
        let Some(config) = config else {
            let data = of_folder(folder.cloned().unwrap_or_default());
            let tokenizer = PromptTokenizer::builtin();
            let token_limit = model_tokenizer::token_limit(&tokenizer, None)?;
            return Ok(Wanted {
                data,
                seed: 0,
                bucket_step: BUCKET_STEP,
                tokenizer,
                token_limit,
                prompt_weights: false,
            });
        };
        let config = load_or_explain(&ConfigArgs { config: config.clone(), set: set.to_vec() })?.config;
        // The images can be looked at before the model is there.
        let bucket_step = ModelParts::of(&config.model).map_or(BUCKET_STEP, |parts| parts.bucket_step());
        let plain = || model_tokenizer::of(&config.model).unwrap_or_else(|_| PromptTokenizer::builtin());
        let tokenizer = learned_words::tokenizer(&config, plain()).unwrap_or_else(|_| plain());
        let token_limit = model_tokenizer::token_limit(&tokenizer, config.model.max_token_length)?;
        let prompt_weights = config.model.prompt_weights;
        Ok(Wanted { data: config.data, seed: config.seed, bucket_step, tokenizer, token_limit, prompt_weights })
    }
}

/// A folder by itself: nothing is refused for want of a caption.
fn of_folder(path: PathBuf) -> DataConfig {
    let mut data = DataConfig { subsets: vec![Subset { path, ..Subset::default() }], ..DataConfig::default() };
    data.caption.missing = MissingCaption::Empty;
    data
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match error {
            Error::Data(error) => return error.into(),
            Error::Storage { .. } => ExitCode::Storage,
            Error::Manifest { .. } | Error::Target { .. } => ExitCode::Configuration,
            Error::NothingLeft(_) => ExitCode::Data,
        };
        let hint = error.hint();
        Failure::new(code, error.to_string()).maybe_hint(hint)
    }
}
