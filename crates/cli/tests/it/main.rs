//! The front program as a user calls it: what it prints, and what it ends with.

mod check;
mod dataset;
mod files;
mod foreign_files;
mod handover;
mod hub;
mod launch;
mod presets;
mod project;
// Not all that it can do is asked of it here.
#[allow(dead_code)]
#[path = "../../../hub/tests/it/server.rs"]
mod server;
#[path = "../shared/tiny_model.rs"]
mod tiny_model;
