//! The `tokenizer` folder of a diffusers model, whatever kind of vocabulary it holds.

use std::path::Path;

use serde_json::Value;

use crate::clip::DEFAULT_WINDOW;
use crate::error::{Error, Result};
use crate::learned_words::LearnedWords;
use crate::prompt_tokenizer::{Form, Pipeline, PromptTokenizer};
use crate::special::{Marks, SpecialTokens, TokenFiles, read, read_object};
use crate::vocabulary::Vocabulary;
use crate::{bert, sentence_piece};

/// What is kept of a folder whose tokenizer is not CLIP's.
const KEPT: [&str; 6] = [
    "added_tokens.json",
    "special_tokens_map.json",
    sentence_piece::FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    bert::FILE,
];

impl PromptTokenizer {
    /// From the `tokenizer` folder of a diffusers model: CLIP's, BERT's or a SentencePiece model. Like transformers,
    /// `tokenizer.json` comes before the older files where a folder has both.
    ///
    /// # Errors
    /// Where there is none, or its files are not what they should be.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<PromptTokenizer> {
        let folder = folder.as_ref();
        let mut files = TokenFiles::read(folder)?;
        let whole = folder.join("tokenizer.json");
        if whole.is_file() {
            let mut json = Value::Object(read_object(&whole)?);
            return match json["model"]["type"].as_str() {
                Some("WordPiece") => from_whole(&whole, json, &files, &Marks::BERT, bert::USUAL_WINDOW),
                Some("Unigram") => from_whole(&whole, json, &files, &Marks::T5, sentence_piece::USUAL_WINDOW),
                _ => {
                    if let Value::Array(added) = json["added_tokens"].take() {
                        files.tokenizer_json_added = added;
                    }
                    clip(&whole, Vocabulary::from_tokenizer_json(&whole, &json)?, &files)
                }
            };
        }
        let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        if vocab.is_file() && merges.is_file() {
            let vocabulary = Vocabulary::from_files((&vocab, &read(&vocab)?), (&merges, &read(&merges)?))?;
            return clip(&vocab, vocabulary, &files);
        }
        let kinds = [
            (bert::FILE, bert::pipeline as Reading, &Marks::BERT, bert::USUAL_WINDOW),
            (sentence_piece::FILE, sentence_piece::pipeline, &Marks::T5, sentence_piece::USUAL_WINDOW),
        ];
        for (name, pipeline, marks, usual_window) in kinds {
            let path = folder.join(name);
            if path.is_file() {
                let special = SpecialTokens::from_files(&files, marks);
                let pipeline = pipeline(&read(&path)?, &files, &special);
                return other(&path, pipeline, special, files.window(usual_window));
            }
        }
        Err(Error::NoTokenizer { folder: folder.to_path_buf() })
    }
}

/// Makes a pipeline of the content of a file; the reason where that cannot be.
type Reading = fn(&[u8], &TokenFiles, &SpecialTokens) -> std::result::Result<Pipeline, String>;

fn clip(source: &Path, vocabulary: Vocabulary, files: &TokenFiles) -> Result<PromptTokenizer> {
    let special = SpecialTokens::from_files(files, &Marks::CLIP);
    PromptTokenizer::new(vocabulary, special, files.window(DEFAULT_WINDOW))
        .map_err(|reason| Error::bad_file(source, reason))
}

/// A tokenizer whose `tokenizer.json` says all about it; marks and padding are put round its tokens here.
fn from_whole(
    path: &Path,
    mut json: Value,
    files: &TokenFiles,
    marks: &Marks,
    usual_window: usize,
) -> Result<PromptTokenizer> {
    for key in ["truncation", "padding", "post_processor"] {
        json[key] = Value::Null;
    }
    let pipeline = serde_json::from_value::<Pipeline>(json).map_err(|error| error.to_string());
    other(path, pipeline, SpecialTokens::from_files(files, marks), files.window(usual_window))
}

/// A tokenizer that is not CLIP's, from the file at `source`.
fn other(
    source: &Path,
    pipeline: std::result::Result<Pipeline, String>,
    special: SpecialTokens,
    window: usize,
) -> Result<PromptTokenizer> {
    let bad = |reason| Error::bad_file(source, reason);
    let mut pipeline = pipeline.map_err(bad)?;
    if pipeline.token_to_id(&special.unk.content).is_none() {
        return Err(bad(format!("the mark `{}` has no number", special.unk.content)));
    }
    special.teach(&mut pipeline).map_err(bad)?;
    let mut kept = Vec::new();
    for name in KEPT {
        let path = source.with_file_name(name);
        if path.is_file() {
            kept.push((name.to_owned(), read(&path)?));
        }
    }
    let form = Form::AsRead(kept.into());
    PromptTokenizer::assembled(pipeline, window, special, std::iter::empty(), LearnedWords::new(), form).map_err(bad)
}
