//! CLIP's tokenizer: normalise, split into words, byte-pair encoding, marks and padding.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, NormalizerWrapper, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    DecoderWrapper, PostProcessorWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl,
};

use crate::Tokenizer;
use crate::error::{Error, Result};
use crate::fast_path::FastPath;
use crate::learned_words::LearnedWords;
use crate::special::{SpecialTokens, TokenFiles};
use crate::vocabulary::{END_MARK, END_OF_WORD, Vocabulary};

/// The window of every released CLIP.
pub const DEFAULT_WINDOW: usize = 77;

/// Words as CLIP splits them: the marks, English contractions, runs of letters, single digits, runs of the rest
/// (openai/CLIP, clip/simple_tokenizer.py).
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

pub(crate) type Pipeline = TokenizerImpl<BPE, Normalizers, PreTokenizers, PostProcessorWrapper, DecoderWrapper>;

/// CLIP's byte-level BPE with its marks and padding.
pub struct ClipTokenizer {
    pub(crate) pipeline: Pipeline,
    pub(crate) window: usize,
    pub(crate) special: SpecialTokens,
    pub(crate) learned: LearnedWords,
    fast_path: FastPath,
    bos: i64,
    eos: i64,
    pad: i64,
}

impl ClipTokenizer {
    /// CLIP's own vocabulary of 49 408 tokens, as SD1 pads it (with the end mark).
    pub fn builtin() -> ClipTokenizer {
        ClipTokenizer::new(Vocabulary::builtin(), SpecialTokens::with_pad(END_MARK), DEFAULT_WINDOW)
            .expect("the built-in vocabulary holds its marks")
    }

    /// The same with another token to fill a window with: SD2 has `!`.
    ///
    /// # Errors
    /// Where the vocabulary does not hold it.
    pub fn builtin_padded_with(pad_token: &str) -> Result<ClipTokenizer> {
        ClipTokenizer::new(Vocabulary::builtin(), SpecialTokens::with_pad(pad_token), DEFAULT_WINDOW)
            .map_err(|reason| Error::bad_file("the built-in vocabulary", reason))
    }

    /// From the content of `vocab.json` and `merges.txt`.
    pub fn from_parts(vocab_json: &[u8], merges_txt: &[u8], pad_token: &str, window: usize) -> Result<ClipTokenizer> {
        let vocab = (Path::new("vocab.json"), vocab_json);
        let vocabulary = Vocabulary::from_files(vocab, (Path::new("merges.txt"), merges_txt))?;
        ClipTokenizer::new(vocabulary, SpecialTokens::with_pad(pad_token), window)
            .map_err(|reason| Error::bad_file("vocab.json", reason))
    }

    /// From the `tokenizer` folder of a diffusers model. Like transformers, `tokenizer.json` comes before
    /// `vocab.json` with `merges.txt` where a folder has both.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<ClipTokenizer> {
        let folder = folder.as_ref();
        let whole = folder.join("tokenizer.json");
        let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        let mut files = TokenFiles {
            tokenizer_config: read_object(&folder.join("tokenizer_config.json"))?,
            special_tokens_map: read_object(&folder.join("special_tokens_map.json"))?,
            added_tokens: read_object(&folder.join("added_tokens.json"))?,
            tokenizer_json_added: Vec::new(),
        };
        let (source, vocabulary) = if whole.is_file() {
            let mut json = Value::Object(read_object(&whole)?);
            if let Value::Array(added) = json["added_tokens"].take() {
                files.tokenizer_json_added = added;
            }
            let vocabulary = Vocabulary::from_tokenizer_json(&whole, &json)?;
            (whole, vocabulary)
        } else if vocab.is_file() && merges.is_file() {
            let vocabulary = Vocabulary::from_files((&vocab, &read(&vocab)?), (&merges, &read(&merges)?))?;
            (vocab, vocabulary)
        } else {
            return Err(Error::NoTokenizer { folder: folder.to_path_buf() });
        };
        // transformers writes 1e30 where no length is known.
        let length = files.tokenizer_config.get("model_max_length").and_then(Value::as_u64);
        let window = length.filter(|length| (3..=1 << 20).contains(length)).unwrap_or(DEFAULT_WINDOW as u64);
        ClipTokenizer::new(vocabulary, SpecialTokens::from_files(&files), window as usize)
            .map_err(|reason| Error::bad_file(source, reason))
    }

    pub(crate) fn new(
        vocabulary: Vocabulary,
        special: SpecialTokens,
        window: usize,
    ) -> std::result::Result<ClipTokenizer, String> {
        if window < 3 {
            return Err(format!("a window of {window} has no room for a token between the marks"));
        }
        let Vocabulary { ids, merges } = vocabulary;
        for token in [&special.bos, &special.eos, &special.unk] {
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
        let refused = |error: tokenizers::Error| error.to_string();
        for (id, token) in &special.added {
            pipeline.add_tokens([token.clone()]).map_err(refused)?;
            let given = pipeline.token_to_id(&token.content);
            if given != Some(*id) {
                let content = &token.content;
                return Err(format!("the added token `{content}` should have the number {id} but gets {given:?}"));
            }
        }
        let named = [&special.bos, &special.eos, &special.unk, &special.pad];
        pipeline.add_special_tokens(named.map(Clone::clone)).map_err(refused)?;
        let contents: Vec<String> = special.contents().map(str::to_owned).collect();
        let contents = contents.iter().map(String::as_str);
        Ok(ClipTokenizer::assembled(pipeline, window, special, contents, LearnedWords::new()))
    }

    /// `found`: the tokens that are looked for before a text is split into words; all marks are in the pipeline.
    pub(crate) fn assembled<'a>(
        pipeline: Pipeline,
        window: usize,
        special: SpecialTokens,
        found: impl Iterator<Item = &'a str>,
        learned: LearnedWords,
    ) -> ClipTokenizer {
        let id = |content: &str| pipeline.token_to_id(content).map(i64::from).expect("the marks were added");
        let (bos, eos, pad) = (id(&special.bos.content), id(&special.eos.content), id(&special.pad.content));
        let fast_path = FastPath::new(WORDS, found);
        ClipTokenizer { pipeline, window, special, learned, fast_path, bos, eos, pad }
    }

    /// The tokens of a text by the `tokenizers` crate alone: what [`Tokenizer::tokens`] gives, in ten times the time, but for
    /// learned words, of which only the first token is there.
    pub fn tokens_the_long_way(&self, text: &str) -> Vec<i64> {
        let encoding = self.pipeline.encode_fast(text, false).expect("every word is in the vocabulary or unknown");
        encoding.get_ids().iter().map(|&id| i64::from(id)).collect()
    }

    /// The number of a token, written as in `vocab.json`.
    pub fn token_to_id(&self, token: &str) -> Option<i64> {
        self.pipeline.token_to_id(token).map(i64::from)
    }

    /// The token with a number, written as in `vocab.json`.
    pub fn id_to_token(&self, id: i64) -> Option<String> {
        self.pipeline.id_to_token(u32::try_from(id).ok()?)
    }
}

impl Tokenizer for ClipTokenizer {
    fn tokens(&self, text: &str) -> Vec<i64> {
        let tokens = self.fast_path.tokens(text, |word| self.tokens_the_long_way(word));
        self.expanded(tokens.unwrap_or_else(|| self.tokens_the_long_way(text)))
    }

    fn window(&self) -> usize {
        self.window
    }

    fn vocab_size(&self) -> usize {
        self.pipeline.get_vocab_size(true)
    }

    fn bos(&self) -> i64 {
        self.bos
    }

    fn eos(&self) -> i64 {
        self.eos
    }

    fn pad(&self) -> i64 {
        self.pad
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.folder_files()
    }
}

pub(crate) fn pipeline(model: BPE) -> Pipeline {
    let spaces = Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".to_string()), " ")
        .expect("the pattern is fixed");
    let normalizers: Vec<NormalizerWrapper> = vec![NFC.into(), spaces.into(), Lowercase.into()];
    let words = Split::new(SplitPattern::Regex(WORDS.to_string()), SplitDelimiterBehavior::Removed, true)
        .expect("the pattern is fixed");
    let pre_tokenizers: Vec<PreTokenizerWrapper> = vec![words.into(), ByteLevel::new(false, true, true).into()];
    TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(Some(Normalizers::new(normalizers)))
        .with_pre_tokenizer(Some(PreTokenizers::new(pre_tokenizers)))
        .with_post_processor(None)
        .with_decoder(None)
        .build()
        .expect("a model is all that a tokenizer must have")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })
}

/// A JSON object, empty if there is no such file.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&read(path)?).map_err(|error| Error::bad_file(path, error.to_string()))
}
