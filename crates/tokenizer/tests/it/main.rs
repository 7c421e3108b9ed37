//! What the crate promises of prompts and vocabularies.

mod chinese_japanese;
mod fast_path;
mod folder;
mod learned_words;
mod mutations;
mod parity;
mod words;
