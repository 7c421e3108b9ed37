//! CLIP's tokenizer: normalise, split into words, byte-pair encoding, marks and padding.

use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, NormalizerWrapper, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerBuilder};

use crate::Tokenizer;
use crate::error::{Error, Result};
use crate::learned_words::LearnedWords;
use crate::prompt_tokenizer::{Form, Pipeline, PromptTokenizer};
use crate::special::SpecialTokens;
use crate::vocabulary::{END_MARK, END_OF_WORD, Vocabulary};

/// The window of every released CLIP.
pub const DEFAULT_WINDOW: usize = 77;

/// Words as CLIP splits them: the marks, English contractions, runs of letters, single digits, runs of the rest
/// (openai/CLIP, clip/simple_tokenizer.py).
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

impl PromptTokenizer {
    /// CLIP's own vocabulary of 49 408 tokens, as SD1 pads it (with the end mark).
    pub fn builtin() -> PromptTokenizer {
        PromptTokenizer::new(Vocabulary::builtin(), SpecialTokens::with_pad(END_MARK), DEFAULT_WINDOW)
            .expect("the built-in vocabulary holds its marks")
    }

    /// The same with another token to fill a window with: SD2 has `!`.
    ///
    /// # Errors
    /// Where the vocabulary does not hold it.
    pub fn builtin_padded_with(pad_token: &str) -> Result<PromptTokenizer> {
        PromptTokenizer::new(Vocabulary::builtin(), SpecialTokens::with_pad(pad_token), DEFAULT_WINDOW)
            .map_err(|reason| Error::bad_file("the built-in vocabulary", reason))
    }

    /// From the content of `vocab.json` and `merges.txt`.
    pub fn from_parts(vocab_json: &[u8], merges_txt: &[u8], pad_token: &str, window: usize) -> Result<PromptTokenizer> {
        let vocab = (Path::new("vocab.json"), vocab_json);
        let vocabulary = Vocabulary::from_files(vocab, (Path::new("merges.txt"), merges_txt))?;
        PromptTokenizer::new(vocabulary, SpecialTokens::with_pad(pad_token), window)
            .map_err(|reason| Error::bad_file("vocab.json", reason))
    }

    pub(crate) fn new(
        vocabulary: Vocabulary,
        special: SpecialTokens,
        window: usize,
    ) -> std::result::Result<PromptTokenizer, String> {
        let Vocabulary { ids, merges } = vocabulary;
        for token in special.bos.iter().chain([&special.eos, &special.unk]) {
            if !ids.contains_key(&token.content) {
                return Err(format!("the mark `{}` has no number", token.content));
            }
        }
        let model = BPE::builder()
            .vocab_and_merges(ids, merges)
            .unk_token(special.unk.content.clone())
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix(END_OF_WORD.to_string())
            .fuse_unk(false)
            .build()
            .map_err(|error| error.to_string())?;
        let mut pipeline = pipeline(model);
        special.teach(&mut pipeline)?;
        let contents: Vec<String> = special.contents().map(str::to_owned).collect();
        let contents = contents.iter().map(String::as_str);
        PromptTokenizer::assembled(pipeline, window, special, contents, LearnedWords::new(), Form::Clip(WORDS))
    }
}

pub(crate) fn pipeline(model: BPE) -> Pipeline {
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_string()), " ").expect("the pattern is fixed");
    let normalizers: Vec<NormalizerWrapper> = vec![NFC.into(), spaces.into(), Lowercase.into()];
    let words = Split::new(SplitPattern::Regex(WORDS.to_string()), SplitDelimiterBehavior::Removed, true)
        .expect("the pattern is fixed");
    let pre_tokenizers: Vec<PreTokenizerWrapper> = vec![words.into(), ByteLevel::new(false, true, true).into()];
    TokenizerBuilder::new()
        .with_model(model.into())
        .with_normalizer(Some(Normalizers::new(normalizers).into()))
        .with_pre_tokenizer(Some(PreTokenizers::new(pre_tokenizers).into()))
        .with_post_processor(None)
        .with_decoder(None)
        .build()
        .expect("a model is all that a tokenizer must have")
}

/// Whether a tokenizer reads texts as CLIP's own does, whatever files it came from: told by a text of many words, of which another
/// vocabulary makes other tokens.
pub fn reads_like_clip(tokenizer: &dyn Tokenizer) -> bool {
    // Without `!`: where SD2 pads with it, it is a mark and no word.
    const MANY_WORDS: &str = "a photograph of an old lighthouse & its keeper's dog, 1924, trending on artstation; the quick brown fox \
         jumps over lazy dogs, vexing zebras; déjà vu, naïve façade, 飞流直下, 油画, 猫の写真, Ελλάδα, привет, 🙂";
    tokenizer.tokens(MANY_WORDS) == PromptTokenizer::builtin().tokens(MANY_WORDS)
}
