//! What a user of a configuration file sees: messages, merging, overrides, the manual.

mod extends;
mod layers;
mod messages;
mod overrides;
mod reference;
mod sections;
