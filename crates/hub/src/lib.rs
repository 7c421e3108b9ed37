#![doc = include_str!("../README.md")]

mod cache;
mod client;
mod error;
mod fetch;
mod hash;
mod selection;
mod settings;
mod transfer;

pub use error::{Error, Result};
pub use fetch::{Prepared, Progress, RemoteFile, fetch, prepare, prepare_beside};
pub use selection::{Wanted, is_complete};
pub use settings::{Settings, Token};
