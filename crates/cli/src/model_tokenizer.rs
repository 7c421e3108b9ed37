//! The tokenizer of a model, to count the tokens of captions without loading the model.

use sdtrain_recipe::{ModelConfig, ModelLocation};
use sdtrain_state_dict::{Reader, SafetensorsFile};
use sdtrain_tokenizer::ClipTokenizer;

use crate::commands::convert::model::embedded;
use crate::model_parts::builtin;
use crate::{ExitCode, Failure};

/// The model's own tokenizer, or CLIP's where it comes with none.
pub(crate) fn of(config: &ModelConfig) -> Result<ClipTokenizer, Failure> {
    let location = ModelLocation::find(&config.path)
        .map_err(|(message, hint)| Failure::new(ExitCode::Configuration, message).maybe_hint(hint))?;
    match location {
        ModelLocation::Builtin(name) => of_file(&builtin(&name)?),
        ModelLocation::Path(folder) if folder.is_dir() => match ClipTokenizer::from_folder(folder.join("tokenizer")) {
            Err(sdtrain_tokenizer::Error::NoTokenizer { .. }) => Ok(ClipTokenizer::builtin()),
            found => Ok(found?),
        },
        ModelLocation::Path(file) => of_file(&SafetensorsFile::open(&file)?),
    }
}

fn of_file(file: &dyn Reader) -> Result<ClipTokenizer, Failure> {
    Ok(embedded(file)?.map_or_else(ClipTokenizer::builtin, |(_, tokenizer)| tokenizer))
}
