//! Whole runs against the golden files in `tests/fixtures`.

mod parts;
mod replay;
