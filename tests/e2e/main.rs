//! The program as a user runs it, on throw-away projects.

#[path = "../../crates/cli/tests/bad_input/images.rs"]
mod bad_images;
mod cache;
mod convert;
mod corpus;
mod dreambooth;
mod errors;
mod inpainting;
mod merge;
mod project;
mod resume;
mod samples;
mod train;
