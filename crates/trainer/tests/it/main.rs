//! Whole runs against the golden files in `tests/fixtures`.

mod autoencoder;
mod cached_features;
mod dreambooth;
mod faults;
mod learned_words;
mod masks;
mod matrix;
mod not_finite;
mod parts;
mod precision;
mod replay;
