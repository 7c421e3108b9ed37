#![doc = include_str!("../README.md")]

mod error;
mod file;
mod learned_tokens;
mod lora;
mod lora_layer;

pub use error::{Error, Result};
pub use file::{LoraFile, kohya_metadata};
pub use learned_tokens::{
    WordNaming, add_to_lora_file, new_word, on_device, read_bundled_words, read_learned_words, write_learned_words,
};
pub use lora::{Lora, LoraModule, Networks};
pub use lora_layer::{Dropout, LoraLayer};
