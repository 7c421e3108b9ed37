#![doc = include_str!("../README.md")]

mod error;
mod file;
mod lora;
mod lora_layer;

pub use error::{Error, Result};
pub use file::{LoraFile, kohya_metadata};
pub use lora::{Lora, LoraModule, Networks};
pub use lora_layer::{Dropout, LoraLayer};
