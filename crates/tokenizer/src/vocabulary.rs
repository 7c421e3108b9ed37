//! Tokens with their numbers, and the merges that build them, from each kind of file.

use std::fmt;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use tokenizers::models::bpe::{Merges, Vocab};

use crate::error::{Error, Result};

/// Marks the last piece of a word.
pub(crate) const END_OF_WORD: &str = "</w>";
pub(crate) const START_MARK: &str = "<|startoftext|>";
pub(crate) const END_MARK: &str = "<|endoftext|>";

/// The first line of every `merges.txt`.
pub(crate) const MERGES_VERSION: &str = "#version: 0.2";

pub(crate) struct Vocabulary {
    pub(crate) ids: Vocab,
    pub(crate) merges: Merges,
}

impl Vocabulary {
    /// CLIP's own.
    pub(crate) fn builtin() -> Vocabulary {
        let packed = include_bytes!("../data/clip_merges.txt.gz");
        let mut text = String::new();
        GzDecoder::new(&packed[..]).read_to_string(&mut text).expect("the built-in merges are whole");
        let merges = text.lines().map(|line| line.split_once(' ').expect("the built-in merges are pairs"));
        Vocabulary::from_merges(merges.map(|(left, right)| (left.to_string(), right.to_string())).collect())
    }

    /// Numbers tokens the way CLIP does: bytes, bytes that end a word, merges, the two marks.
    pub(crate) fn from_merges(merges: Merges) -> Vocabulary {
        let alphabet = byte_alphabet();
        let bytes = alphabet.iter().map(char::to_string);
        let ends = alphabet.iter().map(|byte| format!("{byte}{END_OF_WORD}"));
        let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
        let marks = [START_MARK, END_MARK].map(str::to_string);
        let mut ids = Vocab::with_capacity(2 * alphabet.len() + merges.len() + marks.len());
        for token in bytes.chain(ends).chain(merged).chain(marks) {
            // Two merges can lead to one token, which then keeps its first number.
            let next = ids.len() as u32;
            ids.entry(token).or_insert(next);
        }
        Vocabulary { ids, merges }
    }

    /// From `vocab.json` and `merges.txt`; the paths are for messages.
    pub(crate) fn from_files(vocab: (&Path, &[u8]), merges: (&Path, &[u8])) -> Result<Vocabulary> {
        let (vocab_path, vocab) = vocab;
        let UniqueIds(ids) =
            serde_json::from_slice(vocab).map_err(|error| Error::bad_file(vocab_path, error.to_string()))?;
        let (merges_path, merges) = merges;
        let text = std::str::from_utf8(merges).map_err(|error| Error::bad_file(merges_path, error.to_string()))?;
        let mut pairs = Merges::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || (number == 0 && line.starts_with("#version")) {
                continue;
            }
            pairs.push(
                pair(line).ok_or_else(|| {
                    Error::bad_file(merges_path, format!("line {} is not a pair of tokens", number + 1))
                })?,
            );
        }
        Vocabulary { ids, merges: pairs }.checked(merges_path)
    }

    /// From the `model` of a `tokenizer.json`.
    pub(crate) fn from_tokenizer_json(path: &Path, json: &Value) -> Result<Vocabulary> {
        let model = &json["model"];
        // Early files leave the type out.
        if let Some(other) = model["type"].as_str().filter(|kind| *kind != "BPE") {
            return Err(Error::bad_file(path, format!("its model is `{other}` and not CLIP's `BPE`")));
        }
        if model["end_of_word_suffix"].as_str() != Some(END_OF_WORD) {
            return Err(Error::bad_file(path, format!("it is not CLIP's: words do not end with `{END_OF_WORD}`")));
        }
        let UniqueIds(ids) = UniqueIds::deserialize(&model["vocab"])
            .map_err(|error| Error::bad_file(path, format!("`model.vocab`: {error}")))?;
        let no_merges = || Error::bad_file(path, "`model.merges` is not a list of pairs".to_string());
        let mut merges = Merges::new();
        for merge in model["merges"].as_array().ok_or_else(no_merges)? {
            let merge = match merge {
                Value::String(text) => pair(text),
                Value::Array(two) => match two.as_slice() {
                    [Value::String(left), Value::String(right)] => Some((left.clone(), right.clone())),
                    _ => None,
                },
                _ => None,
            };
            merges.push(merge.ok_or_else(no_merges)?);
        }
        Vocabulary { ids, merges }.checked(path)
    }

    // The BPE builder reads past its buffer when a merge makes a token that is longer than any listed one.
    fn checked(self, path: &Path) -> Result<Vocabulary> {
        let mut merged = String::new();
        for (left, right) in &self.merges {
            merged.clear();
            merged.push_str(left);
            merged.push_str(right);
            if let Some(absent) = [left, right, &merged].into_iter().find(|token| !self.ids.contains_key(*token)) {
                let reason = format!("the merge `{left} {right}` needs the token `{absent}`, which has no number");
                return Err(Error::bad_file(path, reason));
            }
        }
        Ok(self)
    }
}

fn pair(line: &str) -> Option<(String, String)> {
    let (left, right) = line.trim_end_matches('\r').split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' ')).then(|| (left.to_string(), right.to_string()))
}

/// The characters that stand for the 256 bytes, in CLIP's order: printable bytes stand for themselves, the others are
/// moved beyond them (openai/CLIP, clip/simple_tokenizer.py, `bytes_to_unicode`).
pub(crate) fn byte_alphabet() -> Vec<char> {
    let printable = (b'!'..=b'~').chain(0xa1..=0xac).chain(0xae..=0xff);
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=u8::MAX).filter(|byte| !is_printable(byte)).count() as u32;
    let moved = (0..others).map(|index| char::from_u32(256 + index).expect("below the surrogates"));
    printable.map(char::from).chain(moved).collect()
}

/// A token table in which no token and no number appears twice.
struct UniqueIds(Vocab);

impl<'de> Deserialize<'de> for UniqueIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct IdsVisitor;
        impl<'de> Visitor<'de> for IdsVisitor {
            type Value = UniqueIds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tokens with their numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<UniqueIds, A::Error> {
                let mut ids = Vocab::with_capacity(map.size_hint().unwrap_or(1 << 16));
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    if ids.insert(token, id).is_some() {
                        return Err(A::Error::custom(format!("a token appears twice, with the number {id}")));
                    }
                }
                let mut taken = vec![false; ids.len()];
                for (token, &id) in &ids {
                    match taken.get_mut(id as usize) {
                        Some(slot @ false) => *slot = true,
                        Some(true) => return Err(A::Error::custom(format!("the number {id} is given twice"))),
                        None => {
                            let reason = format!("`{token}` has the number {id}, but there are {} tokens", ids.len());
                            return Err(A::Error::custom(reason));
                        }
                    }
                }
                Ok(UniqueIds(ids))
            }
        }
        deserializer.deserialize_map(IdsVisitor)
    }
}
