//! The program as a user runs it, on throw-away projects.

mod convert;
mod errors;
mod project;
mod resume;
mod train;
