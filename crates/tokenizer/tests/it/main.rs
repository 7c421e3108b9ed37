//! What the crate promises of prompts and vocabularies.

mod fast_path;
mod folder;
mod learned_words;
mod parity;
mod words;
