//! Whole runs against the golden files in `tests/fixtures`.

mod cached_features;
mod masks;
mod not_finite;
mod replay;
