#![doc = include_str!("../README.md")]
//!
//! ```text
//! key         image, view, encoder ──→ EntryName             (a digest of all that decides the latents; of a text's states likewise)
//! entry       what every entry has: a sealed safetensors file, back with every check
//! latents     LatentEntry            text_states   TextEntry
//! folder      EntryName ─────────────→ an entry, missing, or damaged; what no name asks for can be removed
//! kohya_npz   file beside an image ──→ LatentEntry, or why it does not fit   (npy: one array of it)
//! ```

mod entry;
mod error;
mod folder;
mod key;
pub mod kohya_npz;
mod latents;
mod npy;
mod text_states;

pub use entry::Entry;
pub use error::Error;
pub use folder::{EntryFolder, Found, LatentFolder, Pruned, TextFolder};
pub use key::{EncoderIdentity, EntryName, FORMAT_VERSION, LatentKey, TextEncoderIdentity, TextKey};
pub use latents::{LatentEntry, Moments, Origin, file_bytes};
pub use text_states::{TextEntry, TextForm};
