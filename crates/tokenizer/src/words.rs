//! A small vocabulary made from a list of words, for models that are trained from scratch on few words.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use crate::clip::pipeline;
use crate::prompt_tokenizer::{Pipeline, PromptTokenizer};
use crate::special::SpecialTokens;
use crate::vocabulary::{END_MARK, END_OF_WORD, Vocabulary};

impl PromptTokenizer {
    /// A vocabulary in CLIP's form in which each of these words is one token and any other text is still encoded,
    /// piece by piece, down to its bytes. The same list gives the same numbers; the order of the list matters.
    /// A text that CLIP splits into several words (`t-shirt`) counts as those.
    pub fn from_words(words: &[&str], window: usize) -> PromptTokenizer {
        let splitter = pipeline(BPE::default());
        let mut merges = Ranked::default();
        for word in words {
            for piece in split(&splitter, word) {
                merges.teach(&piece);
            }
        }
        let vocabulary = Vocabulary::from_merges(merges.in_order);
        PromptTokenizer::new(vocabulary, SpecialTokens::with_pad(END_MARK), window.max(3))
            .expect("a vocabulary made from merges holds its tokens and marks")
    }
}

/// The words of a text, each byte as the character that stands for it.
fn split(splitter: &Pipeline, text: &str) -> Vec<String> {
    let mut normalized = NormalizedString::from(text);
    let normalizer = splitter.get_normalizer().expect("the pipeline normalises");
    normalizer.normalize(&mut normalized).expect("normalising cannot fail");
    let mut pieces = PreTokenizedString::from(normalized);
    let pre_tokenizer = splitter.get_pre_tokenizer().expect("the pipeline splits");
    pre_tokenizer.pre_tokenize(&mut pieces).expect("splitting cannot fail");
    let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    splits.into_iter().map(|(piece, ..)| piece.to_string()).collect()
}

#[derive(Default)]
struct Ranked {
    in_order: Merges,
    rank: HashMap<(String, String), usize>,
}

impl Ranked {
    /// Adds merges until the word is one token. New merges rank behind all earlier ones, so the words that were
    /// taught before still come out whole: their own merges are always applied first.
    fn teach(&mut self, word: &str) {
        loop {
            let pieces = self.apply(word);
            let [left, right, ..] = pieces.as_slice() else {
                return;
            };
            let merge = (left.clone(), right.clone());
            self.rank.insert(merge.clone(), self.in_order.len());
            self.in_order.push(merge);
        }
    }

    /// Byte-pair encoding of one word: the merge of the lowest rank first, everywhere in the word.
    fn apply(&self, word: &str) -> Vec<String> {
        let mut pieces: Vec<String> = word.chars().map(String::from).collect();
        if let Some(last) = pieces.last_mut() {
            last.push_str(END_OF_WORD);
        }
        loop {
            let ranked = |index: usize| {
                let pair = (pieces[index].clone(), pieces[index + 1].clone());
                self.rank.get(&pair).map(|rank| (*rank, index))
            };
            let Some((_, index)) = (0..pieces.len().saturating_sub(1)).filter_map(ranked).min() else {
                return pieces;
            };
            let right = pieces.remove(index + 1);
            pieces[index].push_str(&right);
        }
    }
}
