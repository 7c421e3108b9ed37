//! The data loader as its users see it: folders in, batches out.

mod data_set;
mod folder;
mod formats;
mod masks;
mod prefetch;
mod split;
mod trouble;
