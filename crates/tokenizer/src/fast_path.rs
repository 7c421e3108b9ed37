//! The short way from a text to its tokens: words that were seen before are looked up instead of being merged again.
//!
//! `tokenizers` keeps an alignment of every character with the text it came from, which nobody asks for here, and that is most
//! of its time. It stays the judge: it merges every new word, and it gets every text of which it is not certain that the short
//! way gives the same tokens.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use regex::Regex;
use unicode_normalization::{IsNormalized, is_nfc_quick};

/// Different words kept: more than the captions of a large data set have, a few megabytes.
const CAPACITY: usize = 1 << 16;
/// Longer words are rare, and keeping them would cost memory.
const LONGEST: usize = 64;

/// Words with their tokens.
pub(crate) struct FastPath {
    words: Regex,
    /// Tokens that are looked for before a text is split, as written and as normalised.
    added: Vec<String>,
    known: RwLock<HashMap<Box<str>, Box<[i64]>>>,
}

impl FastPath {
    /// `words`: the pattern of a word; `added`: the tokens that are found in a text before it is split.
    pub(crate) fn new<'a>(words: &str, added: impl Iterator<Item = &'a str>) -> FastPath {
        let mut added: Vec<String> =
            added.flat_map(|token| [token.to_owned(), lowercase(token).into_owned()]).collect();
        added.sort_unstable();
        added.dedup();
        let words = Regex::new(words).expect("the pattern is fixed");
        FastPath { words, added, known: RwLock::default() }
    }

    /// The tokens of `text`; `None` where only the long way is certain. `whole` is the long way, for one word.
    pub(crate) fn tokens(&self, text: &str, whole: impl Fn(&str) -> Vec<i64>) -> Option<Vec<i64>> {
        let lower = lowercase(text);
        let is_normal = |text: &str| text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes;
        if !is_normal(text) || !is_normal(&lower) {
            return None;
        }
        if self.added.iter().any(|token| text.contains(token.as_str()) || lower.contains(token.as_str())) {
            return None;
        }
        let mut tokens = Vec::with_capacity(lower.len() / 4 + 1);
        let mut new = Vec::new();
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            for word in self.words.find_iter(&lower).map(|found| found.as_str()) {
                match known.get(word) {
                    Some(ids) => tokens.extend_from_slice(ids),
                    None => {
                        let ids = whole(word);
                        tokens.extend_from_slice(&ids);
                        if word.len() <= LONGEST && known.len() + new.len() < CAPACITY {
                            new.push((word, ids));
                        }
                    }
                }
            }
        }
        if !new.is_empty() {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.extend(new.into_iter().map(|(word, ids)| (word.into(), ids.into())));
        }
        Some(tokens)
    }
}

/// Character by character, as `tokenizers` does it: `str::to_lowercase` would look at a final sigma's neighbours.
fn lowercase(text: &str) -> Cow<'_, str> {
    match text.is_ascii() {
        true if !text.bytes().any(|byte| byte.is_ascii_uppercase()) => Cow::Borrowed(text),
        true => Cow::Owned(text.to_ascii_lowercase()),
        false => Cow::Owned(text.chars().flat_map(char::to_lowercase).collect()),
    }
}
