//! What a data set holds, what a run would leave out, and how to take out what a training is better without.
//!
//! ```text
//! survey      every image ─ bytes, header, pixels ──→ ImageFacts         (threads; once)
//! duplicates  facts ────────────────────────────────→ groups of copies
//! inspection  facts, configuration ─────────────────→ Inspection ─→ terminal, JSON, html
//! clean       facts, `[data.clean]` ────────────────→ Plan ─→ manifest, moves ─→ undo
//! ```
#![doc = include_str!("../README.md")]

mod captions;
pub mod clean;
mod dots_per_inch;
mod duplicates;
mod error;
pub mod html;
mod inspection;
mod perceptual;
mod survey;
mod terminal;

pub use captions::{CaptionReport, LongCaption, RepeatedCaption, TagCount, TokenCounts};
pub use error::Error;
pub use inspection::{Bucket, CopyGroup, DroppedImage, FormatCount, ImageCopy, Inspection, Sizes, Spread};
pub use survey::{Depth, ImageFacts, Survey};
pub use terminal::table;
