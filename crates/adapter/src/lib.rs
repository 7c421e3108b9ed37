#![doc = include_str!("../README.md")]

mod dora;
mod dropout;
mod error;
mod file;
mod full_diff;
mod ia3;
mod kinds;
mod layer;
mod loha;
mod lokr;
mod lora;
mod lora_layer;
mod metadata;
mod rebuilt;
mod site;

pub use error::{Error, Result};
pub use file::LoraFile;
pub use layer::{AdapterLayer, Attached, Form, Pass};
pub use lora::{Lora, LoraModule, Networks};
pub use metadata::kohya_metadata;
pub use site::Site;
