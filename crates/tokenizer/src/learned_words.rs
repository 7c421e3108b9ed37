//! Words beyond the vocabulary, each with one token or several behind all others, as textual inversion learns them
//! (Gal et al. 2022, arXiv:2208.01618).

use std::collections::BTreeMap;

use tokenizers::{AddedToken, PreTokenizerWrapper};

use crate::Tokenizer;
use crate::error::{Error, Result};
use crate::prompt_tokenizer::PromptTokenizer;

impl PromptTokenizer {
    /// This tokenizer with further words, each of as many tokens as it has vectors.
    ///
    /// The tokens are those that diffusers adds: `word`, `word_1`, `word_2` …, found wherever they stand in a text, whatever
    /// the case of their letters, as transformers' `add_tokens` finds them. The word alone stands for all of its tokens (with
    /// diffusers only where it has no capital letters).
    ///
    /// # Errors
    /// [`Error::Word`] where a word cannot be one, [`Error::WordTaken`] where one of its tokens is there already.
    pub fn with_words(&self, words: &[(&str, usize)]) -> Result<PromptTokenizer> {
        let mut pipeline = self.pipeline.clone();
        // sentencepiece takes blanks off the end of what stands before a word, as transformers does; `tokenizers` by itself makes a
        // piece of them. Other vocabularies have no pieces of blanks.
        let takes_blanks = matches!(pipeline.get_pre_tokenizer(), Some(PreTokenizerWrapper::Metaspace(_)));
        let mut learned = self.learned.clone();
        for &(word, vectors) in words {
            if word.is_empty() || vectors == 0 || word.contains(char::is_whitespace) {
                let reason = if vectors == 0 { "has no vector" } else { "is empty or has a blank in it" };
                return Err(Error::Word { word: word.to_owned(), reason: reason.to_owned() });
            }
            let mut ids = Vec::with_capacity(vectors);
            for name in token_names(word, vectors) {
                if let Some(id) = pipeline.token_to_id(&name) {
                    return Err(Error::WordTaken { word: word.to_owned(), token: name, id });
                }
                pipeline
                    .add_tokens([AddedToken::from(name.clone(), false).lstrip(takes_blanks)])
                    .map_err(|error| Error::Word { word: word.to_owned(), reason: error.to_string() })?;
                ids.push(pipeline.token_to_id(&name).map(i64::from).expect("it was just added"));
            }
            learned.insert(ids[0], Learned { word: word.to_owned(), ids });
        }
        let all = || learned.values().flat_map(|learned| token_names(&learned.word, learned.ids.len()));
        let fast_path = self.special.contents().map(str::to_owned).chain(all()).collect::<Vec<_>>();
        let found = fast_path.iter().map(String::as_str);
        let special = self.special.clone();
        let made = PromptTokenizer::assembled(pipeline, self.window, special, found, learned, self.form.clone());
        Ok(made.expect("the marks had numbers before"))
    }

    /// The tokens of a word of [`PromptTokenizer::with_words`], in the order of its vectors.
    pub fn learned_ids(&self, word: &str) -> Option<&[i64]> {
        self.learned.values().find(|learned| learned.word == word).map(|learned| learned.ids.as_slice())
    }

    /// The first token that none of the vocabulary's own has: learned words begin here.
    pub fn first_learned_id(&self) -> i64 {
        match self.learned.keys().next() {
            Some(first) => *first,
            None => self.vocab_size() as i64,
        }
    }

    /// The tokens of a text with all tokens of each learned word in the place of its first.
    pub(crate) fn expanded(&self, tokens: Vec<i64>) -> Vec<i64> {
        let first = self.first_learned_id();
        if self.learned.is_empty() || tokens.iter().all(|&id| id < first) {
            return tokens;
        }
        let mut expanded = Vec::with_capacity(tokens.len() + 8);
        for id in tokens {
            match self.learned.get(&id) {
                Some(learned) => expanded.extend_from_slice(&learned.ids),
                None => expanded.push(id),
            }
        }
        expanded
    }
}

/// One word with its tokens.
#[derive(Clone, Debug)]
pub(crate) struct Learned {
    word: String,
    ids: Vec<i64>,
}

/// Words by their first token.
pub(crate) type LearnedWords = BTreeMap<i64, Learned>;

/// `word`, `word_1`, `word_2` …: the names that diffusers gives the tokens of a word (`load_textual_inversion`).
fn token_names(word: &str, vectors: usize) -> impl Iterator<Item = String> {
    (0..vectors).map(move |index| if index == 0 { word.to_owned() } else { format!("{word}_{index}") })
}
