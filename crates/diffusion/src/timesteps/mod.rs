//! The timestep that an example is trained at.
//!
//! A distribution is a weight for each timestep of a range; a draw is a number from 0 to 1 that is looked up in their running sum.
//! So every distribution can be stratified over a batch, and each is a file with one function.

mod biased;
mod cubic;
mod logit_normal;
mod sampler;
mod sigmoid;
mod uniform;

pub use sampler::TimestepSampler;
pub use uniform::uniform;

use std::ops::Range;

use sdtrain_recipe::TimestepDistribution;

/// What each timestep of `range` is drawn in proportion to, in fp64; not normalised.
pub fn weights(distribution: &TimestepDistribution, range: Range<i64>) -> Vec<f64> {
    let count = (range.end - range.start).max(0) as usize;
    match distribution {
        TimestepDistribution::Uniform(_) => vec![1.0; count],
        TimestepDistribution::LogitNormal(config) => logit_normal::weights(config, count),
        TimestepDistribution::Sigmoid(config) => sigmoid::weights(config, count),
        TimestepDistribution::Cubic(config) => cubic::weights(config, count),
        TimestepDistribution::Biased(config) => biased::weights(config, range),
    }
}
