#![doc = include_str!("../README.md")]

mod error;
mod latents;
mod parallel;
mod seeded_bugs;
mod survey;
mod texts;

pub use error::{Error, Result};
pub use latents::{DiskLatents, LatentCache};
pub use survey::Survey;
pub use texts::{DiskTexts, TextCache};

/// Told of each image or text that was encoded: how many are done, and of how many.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);
