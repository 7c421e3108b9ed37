//! The noise that an example gets: a base draw, and what is added to it.

mod gaussian;
mod offset;

pub use gaussian::gaussian;
pub use offset::offset;
