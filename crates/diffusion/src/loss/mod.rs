//! How a prediction is scored: an error for each example, and how much each example counts.

mod mse;
mod weighting;

pub use mse::mse;
pub use weighting::min_snr;
