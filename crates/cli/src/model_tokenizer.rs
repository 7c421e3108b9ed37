//! The tokenizer of a model, to count the tokens of captions without loading the model.

use sdtrain_recipe::{ModelConfig, ModelLocation};
use sdtrain_state_dict::maps::text_places::TextFolder;
use sdtrain_state_dict::{
    Family, PipelineConfigs, Reader, open_file, read_json, recognise, text_encoder_folders, text_positions,
};
use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::commands::convert::model::embedded;
use crate::hub_files::{local_file, model_location};
use crate::model_parts::builtin;

/// The tokenizer of a configuration's model: the one that it names, that of the text encoder that it names, or the model's own.
pub(crate) fn of(config: &ModelConfig) -> Result<PromptTokenizer, Failure> {
    let local = |folder: &Option<PathBuf>| folder.as_deref().map(local_file).transpose();
    let of_encoder = local(&config.text_encoder)?.map(|folder| text_encoder_folders(&folder));
    let found = match (local(&config.tokenizer)?, &of_encoder) {
        (Some(folder), _) => PromptTokenizer::from_folder(folder).map(Some)?,
        (None, Some((_, folder))) => match PromptTokenizer::from_folder(folder) {
            Err(sdtrain_tokenizer::Error::NoTokenizer { .. }) => None,
            found => Some(found?),
        },
        (None, None) => None,
    };
    let tokenizer = found.map_or_else(|| own(config), Ok)?;
    Ok(match &of_encoder {
        Some((network, _)) => tokenizer.at_most(positions(network)),
        None if config.tokenizer.is_some() => tokenizer.at_most(own_positions(config)?),
        None => tokenizer,
    })
}

/// How many tokens the model's own text encoder has positions for.
fn own_positions(config: &ModelConfig) -> Result<usize, Failure> {
    let of_file = |file: &dyn Reader| -> Result<usize, Failure> {
        let family = recognise(file).family().unwrap_or(Family::Sd1);
        let configs = PipelineConfigs::of_single_file(file, family)?;
        Ok(configs.text_encoders.first().map_or(usize::MAX, text_positions))
    };
    match model_location(&config.path)? {
        ModelLocation::Builtin(name) => of_file(&builtin(&name)?),
        ModelLocation::Path(folder) if folder.is_dir() => {
            let family = Family::of_folder(&folder).map_or(Family::Sd1, |(family, _)| family);
            Ok(positions(&folder.join(family.text_folders()[0].network)))
        }
        ModelLocation::Path(file) => of_file(&open_file(&file)?),
    }
}

/// The model's own tokenizer, or CLIP's where it comes with none.
fn own(config: &ModelConfig) -> Result<PromptTokenizer, Failure> {
    let of_file = |file: &dyn Reader| of_file(file, config.text_encoder.is_none());
    match model_location(&config.path)? {
        ModelLocation::Builtin(name) => of_file(&builtin(&name)?),
        ModelLocation::Path(folder) if folder.is_dir() => {
            // What is wrong with a folder of no family is said where it is loaded.
            let family = Family::of_folder(&folder).map_or(Family::Sd1, |(family, _)| family);
            let TextFolder { network, tokenizer } = family.text_folders()[0];
            match PromptTokenizer::from_folder(folder.join(tokenizer)) {
                Err(sdtrain_tokenizer::Error::NoTokenizer { .. }) => Ok(PromptTokenizer::builtin()),
                found => Ok(found?.at_most(positions(&folder.join(network)))),
            }
        }
        ModelLocation::Path(file) => of_file(&open_file(&file)?),
    }
}

/// How many tokens the text encoder in `folder` has positions for; any number where that is not known.
fn positions(folder: &Path) -> usize {
    read_json(&folder.join("config.json")).map_or(usize::MAX, |config| text_positions(&config))
}

/// How many tokens of a caption are read, the marks of its windows not counted.
pub(crate) fn token_limit(tokenizer: &dyn Tokenizer, max_token_length: Option<u32>) -> Result<usize, Failure> {
    let windows = tokenizer.windows_of(max_token_length.map(|length| length as usize))?;
    Ok(windows * (tokenizer.window() - tokenizer.marks()))
}

/// The tokenizer that `file` carries, or CLIP's, which must be that of its text encoder where this `is_kept`.
fn of_file(file: &dyn Reader, is_kept: bool) -> Result<PromptTokenizer, Failure> {
    let family = recognise(file).family().unwrap_or(Family::Sd1);
    match embedded(file, family)? {
        // All of a model's read the same words; they differ in what they fill a window with.
        Some((_, mut tokenizers)) if !tokenizers.is_empty() => Ok(tokenizers.swap_remove(0)),
        _ => {
            if is_kept {
                PipelineConfigs::assumed_of(file, family)?.check_reads_words_of_clip(file.path())?;
            }
            Ok(PromptTokenizer::builtin_padded_with(family.pad_tokens()[0])?)
        }
    }
}
