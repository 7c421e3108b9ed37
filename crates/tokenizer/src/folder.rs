//! The `tokenizer` folder of a diffusers model, whatever kind of vocabulary it holds.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::clip::DEFAULT_WINDOW;
use crate::error::{Error, Result};
use crate::learned_words::LearnedWords;
use crate::prompt_tokenizer::{Form, Pipeline, PromptTokenizer};
use crate::special::{Marks, SpecialTokens, TokenFiles};
use crate::vocabulary::Vocabulary;
use crate::{bert, sentence_piece};

/// What the `tokenizer` folder of a model may hold that is read, sorted.
pub const TOKENIZER_FILES: [&str; 8] = [
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    sentence_piece::FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
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
        let mut found = Vec::new();
        for name in TOKENIZER_FILES {
            let path = folder.join(name);
            if path.is_file() {
                let content = fs::read(&path).map_err(|source| Error::Io { path, source })?;
                found.push((name.to_owned(), content));
            }
        }
        PromptTokenizer::from_files(folder, found)
    }

    /// The same from names and contents; `folder` is for messages.
    ///
    /// # Errors
    /// As [`PromptTokenizer::from_folder`].
    pub fn from_files(folder: &Path, found: Vec<(String, Vec<u8>)>) -> Result<PromptTokenizer> {
        let content = |name: &str| found.iter().find(|(there, _)| there == name).map(|(_, content)| content.as_slice());
        let mut files = TokenFiles::read(folder, content)?;
        if let Some(whole) = content(WHOLE) {
            let path = folder.join(WHOLE);
            let mut json: Value =
                serde_json::from_slice(whole).map_err(|error| Error::bad_file(&path, error.to_string()))?;
            return match json["model"]["type"].as_str() {
                Some("WordPiece") => from_whole(&path, json, &files, &bert::KIND, found),
                Some("Unigram") => from_whole(&path, json, &files, &sentence_piece::KIND, found),
                _ => {
                    if let Some(Value::Array(added)) = json.get_mut("added_tokens").map(Value::take) {
                        files.tokenizer_json_added = added;
                    }
                    clip(&path, Vocabulary::from_tokenizer_json(&path, &json)?, &files)
                }
            };
        }
        if let (Some(vocab), Some(merges)) = (content("vocab.json"), content("merges.txt")) {
            let (vocab_path, merges_path) = (folder.join("vocab.json"), folder.join("merges.txt"));
            let vocabulary = Vocabulary::from_files((&vocab_path, vocab), (&merges_path, merges))?;
            return clip(&vocab_path, vocabulary, &files);
        }
        for kind in [&bert::KIND, &sentence_piece::KIND] {
            if let Some(own) = content(kind.file) {
                let special = SpecialTokens::from_files(&files, &kind.marks);
                let pipeline = (kind.pipeline)(own, &files, &special);
                return other(&folder.join(kind.file), pipeline, special, files.window(kind.usual_window), found);
            }
        }
        Err(Error::NoTokenizer { folder: folder.to_path_buf() })
    }

    /// From the files that travel inside a single-file model at `path`, for a text encoder with so many `positions`. With CLIP's comes no
    /// word of its padding, which is `pad_token`.
    ///
    /// # Errors
    /// As [`PromptTokenizer::from_folder`].
    pub fn embedded(
        path: &Path,
        files: &[(String, Vec<u8>)],
        pad_token: &str,
        positions: usize,
    ) -> Result<PromptTokenizer> {
        let content = |name: &str| files.iter().find(|(there, _)| there == name).map(|(_, content)| content);
        match (content("vocab.json"), content("merges.txt")) {
            (Some(vocab), Some(merges)) => PromptTokenizer::from_parts(vocab, merges, pad_token, positions),
            _ => Ok(PromptTokenizer::from_files(path, files.to_vec())?.at_most(positions)),
        }
    }
}

/// A kind of vocabulary besides CLIP's.
pub(crate) struct Kind {
    /// Its own file.
    pub(crate) file: &'static str,
    pub(crate) marks: Marks,
    /// How many tokens are read at once where no file says it.
    pub(crate) usual_window: usize,
    /// Makes a pipeline of the content of its file; the reason where that cannot be.
    pub(crate) pipeline: fn(&[u8], &TokenFiles, &SpecialTokens) -> std::result::Result<Pipeline, String>,
}

/// The one file that may say all.
const WHOLE: &str = "tokenizer.json";

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
    kind: &Kind,
    found: Vec<(String, Vec<u8>)>,
) -> Result<PromptTokenizer> {
    for key in ["truncation", "padding", "post_processor"] {
        json[key] = Value::Null;
    }
    let pipeline = serde_json::from_value::<Pipeline>(json).map_err(|error| error.to_string());
    let special = SpecialTokens::from_files(files, &kind.marks);
    other(path, pipeline, special, files.window(kind.usual_window), found)
}

/// A tokenizer that is not CLIP's, from the file at `source`.
fn other(
    source: &Path,
    pipeline: std::result::Result<Pipeline, String>,
    special: SpecialTokens,
    window: usize,
    found: Vec<(String, Vec<u8>)>,
) -> Result<PromptTokenizer> {
    let bad = |reason| Error::bad_file(source, reason);
    let mut pipeline = pipeline.map_err(bad)?;
    if pipeline.token_to_id(&special.unk.content).is_none() {
        return Err(bad(format!("the mark `{}` has no number", special.unk.content)));
    }
    special.teach(&mut pipeline).map_err(bad)?;
    let form = Form::AsRead(found.into());
    PromptTokenizer::assembled(pipeline, window, special, std::iter::empty(), LearnedWords::new(), form).map_err(bad)
}
