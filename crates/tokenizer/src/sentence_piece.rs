//! A SentencePiece unigram model (Kudo 2018, arXiv:1804.10959), as Japanese Stable Diffusion has it, read from its `spiece.model`.

use std::collections::HashSet;

use prost::Message;
use tokenizers::TokenizerBuilder;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, NormalizerWrapper, Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

use crate::folder;
use crate::prompt_tokenizer::Pipeline;
use crate::special::{Marks, SpecialTokens, TokenFiles};

/// Its file.
pub(crate) const FILE: &str = "spiece.model";
/// With the positions of CLIP's text encoder, which is the one that such a model was trained with.
pub(crate) const KIND: folder::Kind = folder::Kind { file: FILE, marks: Marks::T5, usual_window: 77, pipeline };
/// Stands for a blank inside a piece.
const BLANK: char = '▁';

/// What is asked of the file, by the numbers of sentencepiece's `sentencepiece_model.proto`.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "Kind", optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    /// A mark: never found in a text.
    Control = 3,
    /// Found in a text before all else.
    UserDefined = 4,
    Unused = 5,
    /// One of the 256 bytes that an unknown character falls apart into.
    Byte = 6,
}

#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "22")]
    split_by_whitespace: Option<bool>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct Normalizer {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
}

/// `model_type` of a unigram model.
const UNIGRAM: i32 = 1;

/// From the content of a `spiece.model`.
fn pipeline(content: &[u8], files: &TokenFiles, special: &SpecialTokens) -> Result<Pipeline, String> {
    let model = Model::decode(content).map_err(|error| format!("no SentencePiece model: {error}"))?;
    let (trainer, normalizer) = (model.trainer.unwrap_or_default(), model.normalizer.unwrap_or_default());
    if let Some(other) = trainer.model_type.filter(|&kind| kind != UNIGRAM) {
        return Err(format!("it is a SentencePiece model of type {other}; only unigram models (1) are read"));
    }
    if trainer.treat_whitespace_as_suffix == Some(true) {
        return Err("its pieces have blanks at their ends, which is not supported".to_owned());
    }
    let byte_fallback = trainer.byte_fallback.unwrap_or(false);
    let (vocabulary, unknown) = vocabulary(&model.pieces, special)?;
    let unigram = Unigram::from(vocabulary, Some(unknown), byte_fallback).map_err(|error| error.to_string())?;
    let prepend = match normalizer.add_dummy_prefix.unwrap_or(true) {
        true => PrependScheme::Always,
        false => PrependScheme::Never,
    };
    let blanks = Metaspace::new(BLANK, prepend, trainer.split_by_whitespace.unwrap_or(true));
    TokenizerBuilder::new()
        .with_model(unigram.into())
        .with_normalizer(Some(Sequence::new(normalizers(&normalizer, files)?).into()))
        .with_pre_tokenizer(Some(blanks.into()))
        .with_post_processor(None)
        .with_decoder(None)
        .build()
        .map_err(|error| error.to_string())
}

/// Pieces with their scores, and the number of the one for what is unknown.
fn vocabulary(pieces: &[Piece], special: &SpecialTokens) -> Result<(Vec<(String, f64)>, usize), String> {
    let (mut vocabulary, mut unknown) = (Vec::with_capacity(pieces.len()), None);
    let normal = pieces.iter().filter(|piece| piece.kind() == Kind::Normal);
    let highest = f64::from(normal.map(|piece| piece.score.unwrap_or_default()).fold(f32::MIN, f32::max));
    let mut seen = HashSet::new();
    for (number, piece) in pieces.iter().enumerate() {
        let text = piece.piece.clone().unwrap_or_default();
        let score = f64::from(piece.score.unwrap_or_default());
        if text.is_empty() || !seen.insert(text.clone()) {
            return Err(format!("its piece {number}, `{text}`, is empty or there twice"));
        }
        if !score.is_finite() {
            return Err(format!("the score of its piece `{text}` is {score}"));
        }
        // A mark in a text is found by its name, as transformers finds it, or is plain text. Its piece must not take part then.
        let is_named = special.contents().any(|mark| mark == text);
        vocabulary.push(match piece.kind() {
            Kind::Normal | Kind::Byte => (text, score),
            Kind::Unknown => {
                unknown = unknown.or(Some(number));
                (text, score)
            }
            // As sentencepiece scores it, so that it wins against any other way to read its letters.
            Kind::UserDefined => {
                let score = text.len() as f64 * highest - 0.1;
                (text, score)
            }
            Kind::Control | Kind::Unused if is_named => (text, score),
            Kind::Control | Kind::Unused => (format!("\0{text}"), score),
        });
    }
    let unknown = unknown.ok_or("it has no piece for what is unknown")?;
    Ok((vocabulary, unknown))
}

/// What a text goes through before it is cut into pieces.
fn normalizers(normalizer: &Normalizer, files: &TokenFiles) -> Result<Vec<NormalizerWrapper>, String> {
    let mut all: Vec<NormalizerWrapper> = Vec::new();
    // transformers' slow tokenizers lower the case before SentencePiece sees a text.
    if files.flag("do_lower_case") == Some(true) {
        all.push(Lowercase.into());
    }
    let map = normalizer.precompiled_charsmap.as_deref().unwrap_or_default();
    if !map.is_empty() {
        check_table(map)?;
        // The maps in use are of NFKC and longer. `tokenizers` looks three-byte letters with a mark behind them, such as decomposed
        // kana, up one by one; composed first, they come to what sentencepiece finds for both together.
        all.push(NFC.into());
        all.push(Precompiled::from(map).map_err(|error| format!("its table of characters: {error}"))?.into());
    }
    if normalizer.remove_extra_whitespaces.unwrap_or(true) {
        all.push(Strip::new(true, true).into());
        let several =
            Replace::new(ReplacePattern::Regex(" {2,}".to_owned()), " ").map_err(|error| error.to_string())?;
        all.push(several.into());
    }
    Ok(all)
}

/// That a table of characters is a double array (Yata et al. 2007, as darts-clone lays it out) in front of the texts that it leads to:
/// its reader looks nothing up with care. Walks every transition that can be reached.
fn check_table(map: &[u8]) -> Result<(), String> {
    let broken = || "its table of characters is broken".to_owned();
    let (length, rest) = map.split_first_chunk::<4>().ok_or_else(broken)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (units, texts) = rest.split_at_checked(length).filter(|_| length.is_multiple_of(4)).ok_or_else(broken)?;
    let texts = std::str::from_utf8(texts).map_err(|_| broken())?;
    let (units, _) = units.as_chunks::<4>();
    let unit = |at: usize| units.get(at).map(|unit| u32::from_le_bytes(*unit)).ok_or_else(broken);
    let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
    let mut seen = vec![false; units.len()];
    let mut left = vec![offset(unit(0)?)];
    while let Some(node) = left.pop() {
        for label in 1..=255 {
            let at = node ^ label;
            let found = unit(at)?;
            if (found & (1 << 31 | 0xff)) as usize != label || std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let next = at ^ offset(found);
            if found >> 8 & 1 == 1 {
                let text = texts.get((unit(next)? & !(1 << 31)) as usize..).ok_or_else(broken)?;
                text.contains('\0').then_some(()).ok_or_else(broken)?;
            }
            left.push(next);
        }
    }
    Ok(())
}
