#![doc = include_str!("../README.md")]
//!
//! ```text
//! key         image, view, encoder ──→ EntryName             (a digest of all that decides the latents)
//! entry       LatentEntry ───────────→ bytes of its file, and back with every check
//! folder      EntryName ─────────────→ LatentEntry, missing, or damaged
//! kohya_npz   file beside an image ──→ LatentEntry, or why it does not fit   (npy: one array of it)
//! ```

mod entry;
mod error;
mod folder;
mod key;
pub mod kohya_npz;
mod npy;

pub use entry::{LatentEntry, Moments, Origin, file_bytes};
pub use error::Error;
pub use folder::{Found, LatentFolder};
pub use key::{EncoderIdentity, EntryName, FORMAT_VERSION, LatentKey};
