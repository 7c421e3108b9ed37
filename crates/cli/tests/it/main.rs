//! The front program as a user calls it: what it prints, and what it ends with.

mod check;
mod dataset;
mod files;
mod handover;
mod presets;
mod project;
