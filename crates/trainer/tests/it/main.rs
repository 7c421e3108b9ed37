//! Whole runs against the golden files in `tests/fixtures`.

mod dreambooth;
mod not_finite;
mod replay;
