#![doc = include_str!("../README.md")]

mod dora;
mod dropout;
mod error;
mod file;
mod fold;
mod full_diff;
mod ia3;
mod kinds;
mod layer;
mod learned_tokens;
mod loha;
mod lokr;
mod lora;
mod lora_layer;
mod low_rank;
mod merged_file;
mod metadata;
mod rebuilt;
mod site;
mod sum;

pub use error::{Error, Result};
pub use file::LoraFile;
pub use fold::{FUSED_KEY, MERGED_KEY, WeightedAdapter, describe, fold};
pub use layer::{AdapterLayer, Attached, Form, Pass};
pub use learned_tokens::{
    WordNaming, add_to_lora_file, new_word, on_device, read_bundled_words, read_learned_words, write_learned_words,
};
pub use lora::{Lora, LoraModule, Networks};
pub use merged_file::{save_merged_full, save_merged_kohya, save_merged_peft};
pub use metadata::kohya_metadata;
pub use site::Site;
pub use sum::{AdapterSum, MergedLayer, Truncation, WholeChange};
