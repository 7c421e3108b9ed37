#![doc = include_str!("../README.md")]

mod pending_file;
mod room;

pub use pending_file::{PendingFile, remove_abandoned};
pub use room::{free_space, in_words};
