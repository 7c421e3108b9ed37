//! The timestep that an example is trained at.

mod uniform;

pub use uniform::uniform;
