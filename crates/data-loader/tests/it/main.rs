//! The data loader as its users see it: folders in, batches out.

mod captions;
mod containers;
mod data_set;
mod folder;
mod formats;
mod masks;
mod mutations;
mod order;
mod pixels;
mod prefetch;
mod sources;
mod split;
mod trouble;
