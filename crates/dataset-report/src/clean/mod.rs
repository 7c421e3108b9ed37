//! Taking images out of a data set: a plan, which can be shown; a manifest; moves; and all of it back.
//!
//! Nothing is deleted and no name is taken that another file has. The manifest is on the disk, whole, before the first
//! file moves, and a move is one renaming, so that a run killed at any point leaves each file in one of two known places.

mod filters;
mod manifest;
mod moving;
mod plan;

pub use filters::{FILTERS, Filter};
pub use moving::{Moved, Restored, apply, undo};
pub use plan::{Companion, Plan, Reason, Removal, RuleCount, StayingImage};
