//! Images and captions → batches in host memory.
//!
//! ```text
//! source      folder, table, parquet, tar ──────→ SourceExample           (once, at open)
//! image       header, end of file ──────────────→ size, or a reason to drop it
//! buckets     size ─────────────────────────────→ bucket, size to scale to
//! groups      subsets of one size and batch ────→ how often each image is seen, and with which others
//! order       (seed, epoch) ────────────────────→ BatchPlan, BatchPlan, …
//! data_set    BatchPlan ─ decode, scale, crop, flip; caption steps ─→ HostBatch
//! examine     one image or caption at a time, for reports and for cleaning
//! prefetch    the same on worker threads, in order, at most a few batches ahead
//! ```
#![doc = include_str!("../README.md")]

mod batch;
mod buckets;
mod caption;
mod content;
mod data_set;
mod epochs;
mod error;
pub mod examine;
mod extra_images;
mod groups;
mod image;
mod looks;
mod manifest;
mod order;
mod prefetch;
mod report;
mod scan;
mod second_read;
mod source;
mod tokens;

pub use batch::{BatchPlan, Contents, ExampleId, HostBatch, HostImage, Visit};
pub use buckets::{Buckets, Placement};
pub use caption::{CAPTION_STEPS, Caption, CaptionParts, CaptionStep, Progress, Reading};
pub use data_set::{DataSet, FolderTags, PIXELS_VERSION, StillView};
pub use error::{DataError, ImageProblem};
pub use order::Rank;
pub use prefetch::Prefetcher;
pub use report::{
    BucketCount, CaptionCounts, DataReport, counted, epoch_in_words, extra_images_in_words, left_over_in_words,
};
pub use source::{
    CONDITIONING_IMAGE, Container, EXTENSIONS, ExampleSource, ImageFolder, ImageLocation, KohyaMetadata, Listing,
    Metadata, Parquet, SOURCES, SourceCaption, SourceExample, SourceKind, Webdataset, open_source,
};
pub use tokens::{LongCaption, TokenReport, TokenWindow};
