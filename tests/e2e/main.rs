//! The program as a user runs it, on throw-away projects.

mod cache;
mod convert;
mod dreambooth;
mod errors;
mod merge;
mod project;
mod resume;
mod samples;
mod train;
