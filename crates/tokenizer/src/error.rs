//! What can be wrong with a tokenizer's files.

use std::io;
use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong when a tokenizer is made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The folder holds no tokenizer that is known here.
    #[error(
        "no tokenizer in `{}`: neither `tokenizer.json` nor `vocab.json` with `merges.txt` (CLIP), `vocab.txt` (BERT) or \
         `spiece.model` (SentencePiece)",
        folder.display()
    )]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// A length of prompts that is not a whole number of windows.
    #[error("prompts cannot be {length} tokens long: the text encoder reads {at_once} at once")]
    MaxTokenLength {
        /// What was asked for.
        length: usize,
        /// Tokens of one window, without its marks.
        at_once: usize,
    },
    /// Something that cannot be a word of its own.
    #[error("`{word}` cannot be a learned word: it {reason}")]
    Word {
        /// The word.
        word: String,
        /// Why not.
        reason: String,
    },
    /// A learned word whose token is there already.
    #[error("`{word}` cannot be a learned word: the tokenizer has the token `{token}` already (number {id})")]
    WordTaken {
        /// The word.
        word: String,
        /// Its token, `word` or `word_1` …
        token: String,
        /// That token's number.
        id: u32,
    },
    /// A file's content is not what it should be.
    #[error("`{}`: {reason}", path.display())]
    BadFile {
        /// The file, or its name where the content came without one.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// The way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoTokenizer { .. } => Some(
                "copy the tokenizer there that came with the text encoder; with another's vocabulary it would read other words"
                    .to_string(),
            ),
            Error::MaxTokenLength { at_once: n, .. } => {
                Some(format!("use {n}, {}, {} or another multiple", 2 * n, 3 * n))
            }
            Error::WordTaken { word, .. } => Some(format!(
                "choose a word that nobody uses, such as `<{word}>`; a file's can be renamed when it is loaded"
            )),
            _ => None,
        }
    }

    pub(crate) fn bad_file(path: impl Into<PathBuf>, reason: impl Into<String>) -> Error {
        Error::BadFile { path: path.into(), reason: reason.into() }
    }
}
