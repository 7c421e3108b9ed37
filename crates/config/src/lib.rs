#![doc = include_str!("../README.md")]
//!
//! ```text
//! text ──tree──→ values that know file and line ──extends, overrides──→ Document ──lint (by schema)──→ T or Problems
//! ```

mod document;
mod extends;
mod field_order;
mod json;
mod key_name;
mod layers;
mod lint;
mod overrides;
mod problem;
mod reference;
mod schema;
mod suggest;
mod tree;

pub use document::{Document, Fault, Parsed};
pub use key_name::hint_for_key;
pub use layers::{Layer, Layers, OwnKeys};
pub use problem::{Problem, Problems};
pub use reference::{json_schema, option_reference};
pub use suggest::nearest;
