//! Token ids to the states that the UNet attends to.

mod clip;

pub use clip::{ClipTextConfig, ClipTextModel};
