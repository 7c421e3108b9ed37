//! The program as a user runs it, on throw-away projects.

mod cache;
mod convert;
mod errors;
mod merge;
mod project;
mod resume;
mod train;
