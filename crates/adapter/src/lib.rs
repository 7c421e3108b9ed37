#![doc = include_str!("../README.md")]

mod error;
mod file;
mod fold;
mod lora;
mod lora_layer;
mod low_rank;
mod merged_file;
mod sum;

pub use error::{Error, Result};
pub use file::{LoraFile, kohya_metadata};
pub use fold::{FUSED_KEY, MERGED_KEY, WeightedAdapter, describe, fold};
pub use lora::{Lora, LoraModule, Networks};
pub use lora_layer::{Dropout, LoraLayer};
pub use merged_file::{save_merged_kohya, save_merged_peft};
pub use sum::{AdapterSum, MergedLayer, Truncation};
