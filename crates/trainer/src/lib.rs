#![doc = include_str!("../README.md")]

mod batches;
mod caption_templates;
mod error;
mod input_files;
mod inputs;
mod latents;
mod metadata;
mod objective;
mod precision;
mod prompt_cache;
mod run_folder;
mod samples;
mod setup;
mod signals;
mod state;
mod step;
mod trace;
mod trainable;
mod trainer;

pub use error::{Error, Result};
pub use latents::{CacheReport, fill_latent_cache};
pub use precision::kind_of;
pub use run_folder::ResumePolicy;
pub use setup::{RunOptions, load_model, open_held_out, train};
pub use trainer::Outcome;
