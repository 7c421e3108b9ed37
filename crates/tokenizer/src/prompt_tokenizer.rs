//! A tokenizer of any kind of vocabulary: its pipeline, its marks, its window and its learned words.

use std::sync::Arc;

use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use crate::Tokenizer;
use crate::fast_path::FastPath;
use crate::learned_words::LearnedWords;
use crate::special::SpecialTokens;

pub(crate) type Pipeline =
    TokenizerImpl<ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// What a text encoder's prompts are read with: CLIP's byte-level BPE, BERT's WordPiece or a SentencePiece model, with marks,
/// padding and the words beyond the vocabulary.
pub struct PromptTokenizer {
    pub(crate) pipeline: Pipeline,
    pub(crate) window: usize,
    pub(crate) special: SpecialTokens,
    pub(crate) learned: LearnedWords,
    pub(crate) form: Form,
    fast_path: Option<FastPath>,
    bos: Option<i64>,
    eos: i64,
    pad: i64,
}

/// What becomes of a vocabulary when it is saved, and how its words are found.
#[derive(Clone)]
pub(crate) enum Form {
    /// CLIP's: its files are written anew, and each of its words is one that this pattern finds.
    Clip(&'static str),
    /// Another: its files are written as they were read.
    AsRead(Arc<[(String, Vec<u8>)]>),
}

impl PromptTokenizer {
    /// Puts together what was read. `found`: the tokens that are looked for before a text is split into words. All marks but those
    /// with a number in the vocabulary are in the pipeline.
    ///
    /// # Errors
    /// Where a window has no room for a token, a mark has no number, or an unknown word has no token.
    pub(crate) fn assembled<'a>(
        pipeline: Pipeline,
        window: usize,
        special: SpecialTokens,
        found: impl Iterator<Item = &'a str>,
        learned: LearnedWords,
        form: Form,
    ) -> Result<PromptTokenizer, String> {
        knows_the_unknown(&pipeline)?;
        let id = |content: &str| {
            let id = pipeline.token_to_id(content).map(i64::from);
            id.ok_or_else(|| format!("the mark `{content}` has no number"))
        };
        let bos = special.bos.as_ref().map(|bos| id(&bos.content)).transpose()?;
        let (eos, pad) = (id(&special.eos.content)?, id(&special.pad.content)?);
        let fast_path = match form {
            Form::Clip(words) => Some(FastPath::new(words, found)),
            Form::AsRead(_) => None,
        };
        let tokenizer = PromptTokenizer { pipeline, window, special, learned, form, fast_path, bos, eos, pad };
        match tokenizer.window > tokenizer.marks() {
            true => Ok(tokenizer),
            false => Err(format!("a window of {window} has no room for a token between the marks")),
        }
    }

    /// With windows of at most so many tokens: those that the text encoder has positions for.
    pub fn at_most(mut self, positions: usize) -> PromptTokenizer {
        self.window = self.window.min(positions.max(self.marks() + 1));
        self
    }

    /// The tokens of a text by the `tokenizers` crate alone: what [`Tokenizer::tokens`] gives, of CLIP's words in ten times the time,
    /// but for learned words, of which only the first token is there.
    pub fn tokens_the_long_way(&self, text: &str) -> Vec<i64> {
        let encoding =
            self.pipeline.encode_fast(text, false).expect("a word that is not in the vocabulary is an unknown one");
        encoding.get_ids().iter().map(|&id| i64::from(id)).collect()
    }

    /// The number of a token, written as in its vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<i64> {
        self.pipeline.token_to_id(token).map(i64::from)
    }

    /// The token with a number, written as in its vocabulary.
    pub fn id_to_token(&self, id: i64) -> Option<String> {
        self.pipeline.id_to_token(u32::try_from(id).ok()?)
    }
}

/// A vocabulary without the word that stands for unknown ones would fail at the first of them.
fn knows_the_unknown(pipeline: &Pipeline) -> Result<(), String> {
    let model = pipeline.get_model();
    let missing = ('\u{f0000}'..='\u{10ffff}').map(String::from).find(|word| model.token_to_id(word).is_none());
    let Some(Err(error)) = missing.map(|word| model.tokenize(&word)) else { return Ok(()) };
    Err(format!("a word that is not in its vocabulary has no token: {error}"))
}

impl Tokenizer for PromptTokenizer {
    fn tokens(&self, text: &str) -> Vec<i64> {
        let fast_path = self.fast_path.as_ref();
        let tokens = fast_path.and_then(|path| path.tokens(text, |word| self.tokens_the_long_way(word)));
        self.expanded(tokens.unwrap_or_else(|| self.tokens_the_long_way(text)))
    }

    fn window(&self) -> usize {
        self.window
    }

    fn vocab_size(&self) -> usize {
        self.pipeline.get_vocab_size(true)
    }

    fn bos(&self) -> Option<i64> {
        self.bos
    }

    fn eos(&self) -> i64 {
        self.eos
    }

    fn pad(&self) -> i64 {
        self.pad
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        match &self.form {
            Form::Clip(_) => self.clip_files(),
            Form::AsRead(files) => files.to_vec(),
        }
    }
}
