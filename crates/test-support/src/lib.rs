#![doc = include_str!("../README.md")]

mod close;
mod fixture;

pub use close::{Tolerance, assert_close, difference};
pub use fixture::{Fixture, fixture_folder};
