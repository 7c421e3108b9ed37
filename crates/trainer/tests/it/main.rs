//! Whole runs against the golden files in `tests/fixtures`.

mod autoencoder;
mod cached_features;
mod dreambooth;
mod failures;
mod faults;
mod going_back;
mod inpainting;
mod learned_words;
mod masks;
mod matrix;
mod not_finite;
mod parts;
mod picture_sizes;
mod precision;
mod ranks;
mod replay;
mod resuming;
#[cfg(feature = "seeded-bugs")]
mod seeded_bugs;
mod threads;
mod vanished_folder;
