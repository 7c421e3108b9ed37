#![doc = include_str!("../README.md")]

mod bert;
mod chunks;
mod clip;
mod error;
mod fast_path;
mod folder;
mod learned_words;
mod misfit;
mod prompt_tokenizer;
mod prompt_weights;
mod save;
mod sentence_piece;
mod special;
mod vocabulary;
mod words;

pub use chunks::WeightedChunk;
pub use clip::{DEFAULT_WINDOW, reads_like_clip};
pub use error::{Error, Result};
pub use folder::TOKENIZER_FILES;
pub use misfit::{Misfit, WordTable};
pub use prompt_tokenizer::PromptTokenizer;
pub use prompt_weights::{WeightedText, parse_prompt_weights};

/// Turns prompts into the numbers that a text encoder reads.
pub trait Tokenizer: Send + Sync {
    /// The tokens of a text without marks, limit or padding.
    fn tokens(&self, text: &str) -> Vec<i64>;

    /// One window: start mark, as many tokens of the text as fit, end mark, padding.
    fn encode(&self, text: &str) -> Vec<i64> {
        chunks::window_of(self, &self.tokens(text))
    }

    /// A long text as `chunks` windows one after the other, each with its own marks; what does not fit is cut off. 2 and 3
    /// windows are `--max_token_length` 150 and 225 of kohya's sd-scripts.
    fn encode_chunks(&self, text: &str, chunks: usize) -> Vec<Vec<i64>> {
        chunks::windows_of(self, &self.tokens(text), chunks)
    }

    /// The same for a prompt with weights in brackets, see [`parse_prompt_weights`].
    fn encode_weighted(&self, prompt: &str, chunks: usize) -> Vec<WeightedChunk> {
        chunks::weighted(self, prompt, chunks)
    }

    /// How many windows hold prompts of `max_token_length` tokens, marks not counted; one without a length.
    ///
    /// # Errors
    /// [`Error::MaxTokenLength`] where they would not fill them.
    fn windows_of(&self, max_token_length: Option<usize>) -> Result<usize> {
        let at_once = self.window() - self.marks();
        match max_token_length {
            None => Ok(1),
            Some(length) if length > 0 && length.is_multiple_of(at_once) => Ok(length / at_once),
            Some(length) => Err(Error::MaxTokenLength { length, at_once }),
        }
    }

    /// How many tokens the text has, without marks and without a limit.
    fn token_count(&self, text: &str) -> usize {
        self.tokens(text).len()
    }

    /// The same for a prompt with weights in brackets, which are no tokens, see [`parse_prompt_weights`].
    fn weighted_token_count(&self, prompt: &str) -> usize {
        chunks::weighted_tokens(self, prompt).0.len()
    }

    /// The length of a window, 77 for CLIP.
    fn window(&self) -> usize;

    /// How many rows the embedding table needs.
    fn vocab_size(&self) -> usize;

    /// Marks of a window: the end mark, and a start mark where there is one.
    fn marks(&self) -> usize {
        1 + usize::from(self.bos().is_some())
    }

    /// The start mark, of tokenizers that have one.
    fn bos(&self) -> Option<i64>;

    /// The end mark.
    fn eos(&self) -> i64;

    /// What fills a window after the end mark.
    fn pad(&self) -> i64;

    /// The files of the `tokenizer` folder of a diffusers model: name and content.
    fn files(&self) -> Vec<(String, Vec<u8>)>;
}
