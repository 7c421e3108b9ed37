//! The program as a user runs it, on throw-away projects.

#[path = "../../crates/cli/tests/bad_input/images.rs"]
mod bad_images;
mod cache;
mod convert;
mod corpus;
mod dreambooth;
mod errors;
mod finished;
mod full_disk;
mod inpainting;
mod launch;
mod memory;
mod merge;
mod presets;
mod project;
mod refiner;
mod resume;
mod samples;
mod stages;
mod told_paths;
mod train;
mod unheard;
