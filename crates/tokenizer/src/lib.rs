#![doc = include_str!("../README.md")]

mod clip;
mod error;
mod save;
mod special;
mod vocabulary;
mod words;

pub use clip::{ClipTokenizer, DEFAULT_WINDOW};
pub use error::{Error, Result};

/// Turns prompts into the numbers that a text encoder reads.
pub trait Tokenizer: Send + Sync {
    /// One window: start mark, at most `window() - 2` tokens of the text, end mark, padding.
    fn encode(&self, text: &str) -> Vec<i64>;

    /// A long text as `chunks` windows one after the other, each with its own marks; what does not fit is cut off.
    fn encode_chunks(&self, text: &str, chunks: usize) -> Vec<Vec<i64>>;

    /// The length of a window, 77 for CLIP.
    fn window(&self) -> usize;

    /// How many tokens the text has, without marks and without a limit.
    fn token_count(&self, text: &str) -> usize;

    /// How many rows the embedding table needs.
    fn vocab_size(&self) -> usize;

    /// The start mark.
    fn bos(&self) -> i64;

    /// The end mark.
    fn eos(&self) -> i64;

    /// What fills a window after the end mark.
    fn pad(&self) -> i64;

    /// The files of the `tokenizer` folder of a diffusers model: name and content.
    fn files(&self) -> Vec<(String, Vec<u8>)>;
}
