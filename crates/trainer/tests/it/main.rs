//! Whole runs against the golden files in `tests/fixtures`.

mod learned_words;
mod replay;
