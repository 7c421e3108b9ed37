//! What the crate promises of prompts and vocabularies.

mod folder;
mod parity;
mod words;
