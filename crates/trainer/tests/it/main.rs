//! Whole runs against the golden files in `tests/fixtures`.

mod masks;
mod not_finite;
mod replay;
