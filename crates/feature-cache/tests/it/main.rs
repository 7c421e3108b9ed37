//! The cache as its users see it: entries in, entries out, nothing stale and nothing damaged.

mod folder;
mod key;
mod kohya_npz;
mod sample;
mod texts;
