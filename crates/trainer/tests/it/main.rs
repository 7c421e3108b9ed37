//! Whole runs against the golden files in `tests/fixtures`.

mod cached_features;
mod dreambooth;
mod learned_words;
mod masks;
mod matrix;
mod not_finite;
mod parts;
mod replay;
