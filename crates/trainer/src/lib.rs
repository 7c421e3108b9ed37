#![doc = include_str!("../README.md")]

mod batches;
mod caption_templates;
mod class_images;
mod continuation;
mod error;
mod faults;
mod identity;
mod input_files;
mod inputs;
mod magnitudes;
mod metadata;
mod objective;
mod patience;
mod precision;
mod prefill;
mod profile;
mod ranks;
mod rates;
mod run_folder;
mod samples;
mod seeded_bugs;
mod setup;
mod shared_caches;
mod spikes;
mod state;
mod step;
mod text_encoder_stop;
mod trace;
mod trainable;
mod trainer;
mod validation;

pub use error::{Error, Result};
pub use input_files::is_from_another;
pub use precision::kind_of;
pub use prefill::{CacheReport, Filled, Prefill, Watcher, fill_cache};
pub use ranks::Ranks;
pub use run_folder::{ResumePolicy, has_all_steps, has_begun, misses_product, move_aside, with_kept_product};
#[cfg(feature = "seeded-bugs")]
pub use seeded_bugs::Bug;
pub use setup::{RunOptions, load_model, open_held_out, train, train_together, train_unless};
pub use trainer::Outcome;
