//! The data loader as its users see it: folders in, batches out.

mod captions;
mod data_set;
mod folder;
mod formats;
mod prefetch;
mod split;
mod trouble;
