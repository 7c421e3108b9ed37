//! Keyed random streams: the one place a run draws from.
#![doc = include_str!("../README.md")]

mod name_key;
mod permutation;
mod purpose;
mod stream;

pub use name_key::key_of;
pub use permutation::permutation;
pub use purpose::Purpose;
pub use rand_chacha::ChaCha8Rng;
pub use stream::Stream;
