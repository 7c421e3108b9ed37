//! The words that a run would learn, told from the configuration, the tokenizer and the headers of files.

use std::path::Path;

use sdtrain_data_loader::DataSet;
use sdtrain_recipe::{LearnedTokenConfig, TrainConfig};
use sdtrain_state_dict::maps::textual_inversion::{WordEntry, bundled_words, entries};
use sdtrain_state_dict::open_file;
use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};

use crate::hub_files::local_file;
use crate::{ExitCode, Failure};
use sdtrain_state_dict::architecture::Shapes;

/// A word that would be learned.
pub(crate) struct Word<'c> {
    pub word: &'c str,
    pub vectors: usize,
}

/// The shape of the table of words of this text encoder: rows and width.
pub(crate) fn table(text_encoder: &Shapes) -> Option<&[usize]> {
    // CLIP's and BERT's.
    let tables = ["text_model.embeddings.token_embedding.weight", "embeddings.word_embeddings.weight"];
    tables.iter().find_map(|table| text_encoder.get(*table)).map(Vec::as_slice)
}

/// How many numbers a vector of this text encoder has.
pub(crate) fn width(text_encoder: &Shapes) -> Option<usize> {
    table(text_encoder)?.get(1).copied()
}

/// The words of `config` beside text encoders of these widths.
pub(crate) fn of<'c>(config: &'c TrainConfig, widths: &[usize]) -> Result<Vec<Word<'c>>, Failure> {
    let mut words = Vec::new();
    for token in config.learned_tokens() {
        words.push(Word { word: &token.word, vectors: vectors_of(token, Some(widths))? });
    }
    Ok(words)
}

/// What is wrong with them: words that the tokenizer has already, that begin with nothing, or that no caption holds.
pub(crate) fn check(config: &TrainConfig, tokenizer: &PromptTokenizer, data: &DataSet) -> Result<(), Failure> {
    let wrong = |message: String| Failure::new(ExitCode::Configuration, message);
    let mut failures = Vec::new();
    for (index, token) in config.learned_tokens().iter().enumerate() {
        let key = format!("textual_inversion.tokens.{index}");
        if let Err(error) = tokenizer.with_words(&[(&token.word, 1)]) {
            failures.push(wrong(format!("`{key}.word`: {error}")).maybe_hint(error.hint()));
        }
        let room = tokenizer.window() - tokenizer.marks();
        if token.vectors.is_some_and(|vectors| vectors as usize >= room) {
            let message = format!(
                "`{key}.vectors` must be less than {room}: so many tokens has a window of this model's text encoder, and a word that \
                 fills it leaves no room for others"
            );
            failures.push(wrong(message).hint("1 to 8 are usual"));
        }
        let initial_words = token.initial_words.as_ref();
        if let Some(words) = initial_words.filter(|words| tokenizer.token_count(words) == 0) {
            failures.push(wrong(format!("`{key}.initial_words`: there is no word in \"{words}\"")));
        }
    }
    let captions = (0..data.images()).map(|image| data.caption(image));
    if let Err((message, hint)) = config.check_words_are_used(captions) {
        failures.push(wrong(message).hint(hint));
    }
    failures.into_iter().reduce(Failure::and).map_or(Ok(()), Err)
}

/// Warnings of words in the adapter files of `config` that its run leaves behind.
pub(crate) fn left_behind(config: &TrainConfig) -> Result<Vec<String>, Failure> {
    config.words_left_behind(|path| Ok(bundled_words(&open_file(local_file(path)?)?)))
}

/// The model's tokenizer with the words of `config`.
pub(crate) fn tokenizer(config: &TrainConfig, tokenizer: PromptTokenizer) -> Result<PromptTokenizer, Failure> {
    if config.learned_tokens().is_empty() {
        return Ok(tokenizer);
    }
    let sizes = config.learned_tokens().iter().map(|token| Ok((token.word.as_str(), vectors_of(token, None)?)));
    Ok(tokenizer.with_words(&sizes.collect::<Result<Vec<_>, Failure>>()?)?)
}

/// How many vectors a word has; those of a file must be as wide as the text encoders'.
fn vectors_of(token: &LearnedTokenConfig, widths: Option<&[usize]>) -> Result<usize, Failure> {
    let wanted = token.vectors.map(|vectors| vectors as usize);
    let Some(path) = &token.initial else { return Ok(wanted.unwrap_or(1)) };
    let unusable = |reason: String| Failure::new(ExitCode::Model, format!("`{}` {reason}", path.display()));
    let found = entry_of(path, &token.word)?;
    if let Some(own) = widths.filter(|widths| *widths != found.widths) {
        let said = |widths: &[usize]| widths.iter().map(usize::to_string).collect::<Vec<_>>().join(" and ");
        let (found, own) = (said(&found.widths), said(own));
        let reason = format!("has vectors of {found} numbers; this model's text encoder has {own}");
        return Err(unusable(reason).hint("it was probably made for another base model"));
    }
    match wanted {
        Some(wanted) if wanted != found.vectors => {
            let reason = format!("has {} vectors for `{}`, but `vectors` is {wanted}", found.vectors, token.word);
            Err(unusable(reason).hint("leave `vectors` out to take what the file has"))
        }
        _ => Ok(found.vectors),
    }
}

/// The only word of a file, or the one of this name.
fn entry_of(path: &Path, word: &str) -> Result<WordEntry, Failure> {
    let file = open_file(path)?;
    let unusable = |reason: String| Failure::new(ExitCode::Model, format!("`{}` {reason}", path.display()));
    let mut found = entries(&file).map_err(unusable)?;
    if found.len() > 1 {
        found.retain(|entry| entry.word.as_deref() == Some(word));
    }
    found.pop().ok_or_else(|| unusable(format!("holds several words, but not `{word}`")))
}
