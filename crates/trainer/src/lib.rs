#![doc = include_str!("../README.md")]

mod batches;
mod error;
mod inputs;
mod latent_cache;
mod metadata;
mod objective;
mod precision;
mod prompt_cache;
mod samples;
mod setup;
mod step;
mod trace;
mod trainable;
mod trainer;
mod validation;

pub use error::{Error, Result};
pub use precision::kind_of;
pub use setup::{RunOptions, train};
pub use trainer::Outcome;
