//! Whole runs against the golden files in `tests/fixtures`.

mod not_finite;
mod replay;
