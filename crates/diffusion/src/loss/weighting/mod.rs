//! How much each example counts, by the noise it was given.

mod min_snr;

pub use min_snr::min_snr;
