//! Whole runs against the golden files in `tests/fixtures`.

mod dreambooth;
mod replay;
