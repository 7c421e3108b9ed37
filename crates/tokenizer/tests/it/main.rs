//! What the crate promises of prompts and vocabularies.

mod fast_path;
mod folder;
mod parity;
mod words;
