//! Timesteps drawn from a distribution, one keyed stream an example, spread over the batch where that is asked for.

use std::ops::Range;

use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::{TimestepDistribution, TimestepsConfig};
use tch::Tensor;

use super::{uniform, weights};
use crate::ExampleKey;

/// Draws the timesteps of a run.
#[derive(Debug, Clone)]
pub struct TimestepSampler {
    range: Range<i64>,
    stratified: bool,
    /// For each timestep of the range the sum of the weights up to it, itself included; none where all are equally likely.
    cumulative: Option<Vec<f64>>,
}

impl TimestepSampler {
    /// For a model of `num_train_timesteps`.
    pub fn new(config: &TimestepsConfig, num_train_timesteps: usize) -> TimestepSampler {
        let last = num_train_timesteps as i64;
        let range = i64::from(config.min)..config.max.map_or(last, |max| i64::from(max).min(last));
        let cumulative = (!matches!(config.distribution, TimestepDistribution::Uniform(_))).then(|| {
            let mut sum = 0.0;
            let weights = weights(&config.distribution, range.clone()).into_iter();
            weights
                .map(|weight| {
                    sum += weight;
                    sum
                })
                .collect()
        });
        TimestepSampler { range, stratified: config.stratified, cumulative }
    }

    /// The timesteps that are drawn at all.
    pub fn range(&self) -> Range<i64> {
        self.range.clone()
    }

    /// A timestep for each example of a batch, as integers on the CPU: `[batch]`. Without stratification each depends on its own
    /// key alone; with it, also on the number of examples and on the first of them.
    pub fn draw(&self, seed: u64, keys: &[ExampleKey]) -> Tensor {
        if !self.stratified && self.cumulative.is_none() {
            return uniform(seed, Purpose::Timestep, keys, self.range.clone());
        }
        let own = keys.iter().map(|key| Stream::new(seed, Purpose::Timestep, key.epoch, key.example).uniform());
        let timesteps: Vec<i64> = match self.stratified {
            true => {
                let strata = strata(seed, keys);
                let spread = own.zip(strata).map(|(own, stratum)| (stratum as f64 + own) / keys.len() as f64);
                spread.map(|quantile| self.at(quantile)).collect()
            }
            false => own.map(|quantile| self.at(quantile)).collect(),
        };
        Tensor::from_slice(&timesteps)
    }

    /// The timestep below which this part of all draws falls, 0 ≤ quantile < 1.
    pub fn at(&self, quantile: f64) -> i64 {
        let count = self.range.end - self.range.start;
        let place = match &self.cumulative {
            None => (quantile * count as f64) as i64,
            Some(cumulative) => {
                let sum = cumulative.last().copied().unwrap_or_default();
                cumulative.partition_point(|&below| below <= quantile * sum) as i64
            }
        };
        // Rounding must not lead out of the range.
        self.range.start + place.min(count - 1)
    }
}

/// Which of the equal parts of the distribution each example of a batch gets.
fn strata(seed: u64, keys: &[ExampleKey]) -> Vec<usize> {
    let mut strata: Vec<usize> = (0..keys.len()).collect();
    if let Some(first) = keys.first() {
        Stream::new(seed, Purpose::TimestepStratum, first.epoch, first.example).shuffle(&mut strata);
    }
    strata
}

#[cfg(test)]
mod tests {
    use sdtrain_recipe::{CubicTimesteps, LogitNormalTimesteps};

    use super::*;

    fn keys(count: u64) -> Vec<ExampleKey> {
        (0..count).map(|example| ExampleKey { epoch: 1, example }).collect()
    }

    fn drawn(sampler: &TimestepSampler, keys: &[ExampleKey]) -> Vec<i64> {
        Vec::try_from(sampler.draw(5, keys)).unwrap()
    }

    fn logit_normal(stratified: bool) -> TimestepSampler {
        let distribution = TimestepDistribution::LogitNormal(LogitNormalTimesteps { mean: -0.5, std: 0.8 });
        TimestepSampler::new(&TimestepsConfig { min: 100, max: Some(700), stratified, distribution }, 1000)
    }

    /// The largest distance between how many of `found` lie below a timestep and how many should.
    fn kolmogorov_distance(sampler: &TimestepSampler, found: &[i64]) -> f64 {
        let cumulative = sampler.cumulative.as_ref().unwrap();
        let sum = cumulative.last().unwrap();
        let mut sorted = found.to_vec();
        sorted.sort_unstable();
        let below = |timestep: i64| sorted.partition_point(|&found| found <= timestep) as f64 / sorted.len() as f64;
        let differences =
            (sampler.range.start..).zip(cumulative).map(|(t, expected)| (below(t) - expected / sum).abs());
        differences.fold(0.0, f64::max)
    }

    #[test]
    fn draws_follow_the_distribution() {
        let sampler = logit_normal(false);
        let found = drawn(&sampler, &keys(20_000));
        assert!(found.iter().all(|timestep| sampler.range().contains(timestep)));
        // One draw in a thousand is farther off: 1.95 / √20000.
        let distance = kolmogorov_distance(&sampler, &found);
        assert!(distance < 0.0138, "{distance}");
    }

    #[test]
    fn a_stratified_batch_has_one_draw_in_each_part() {
        let sampler = logit_normal(true);
        let mut first_strata = [0; 8];
        for batch in 0..400u64 {
            let keys: Vec<ExampleKey> =
                (0..8).map(|example| ExampleKey { epoch: 3, example: batch * 8 + example }).collect();
            let found = drawn(&sampler, &keys);
            // An eighth of the distribution each, and a timestep's width for the rounding.
            assert!(kolmogorov_distance(&sampler, &found) <= 0.125 + 0.005, "{found:?}");
            first_strata[found.iter().filter(|&&timestep| timestep < found[0]).count()] += 1;
        }
        // No place in the batch has a part of its own: 50 each, standard deviation 6.6.
        assert!(first_strata.iter().all(|&count| (17..=83).contains(&count)), "{first_strata:?}");
    }

    #[test]
    fn draws_of_stratified_batches_follow_the_distribution_together() {
        let sampler = logit_normal(true);
        let found: Vec<i64> = keys(20_000).chunks(4).flat_map(|batch| drawn(&sampler, batch)).collect();
        let distance = kolmogorov_distance(&sampler, &found);
        assert!(distance < 0.0138, "{distance}");
    }

    #[test]
    fn no_quantile_leads_out_of_the_range() {
        let cubic = TimestepDistribution::Cubic(CubicTimesteps::default());
        for distribution in [TimestepDistribution::default(), cubic] {
            let config = TimestepsConfig { min: 7, max: Some(9), stratified: true, distribution };
            let sampler = TimestepSampler::new(&config, 1000);
            assert_eq!(sampler.at(0.0), 7);
            assert_eq!(sampler.at(1.0 - f64::EPSILON / 2.0), 8);
            assert_eq!(sampler.at(1.0), 8);
        }
    }

    #[test]
    fn a_range_of_one_timestep_is_that_timestep() {
        for stratified in [false, true] {
            let distribution = TimestepDistribution::LogitNormal(LogitNormalTimesteps::default());
            let config = TimestepsConfig { min: 999, max: None, stratified, distribution };
            assert_eq!(drawn(&TimestepSampler::new(&config, 1000), &keys(3)), [999; 3]);
        }
    }

    #[test]
    fn uniform_timesteps_are_drawn_as_they_always_were() {
        let sampler = TimestepSampler::new(&TimestepsConfig::default(), 1000);
        let found = sampler.draw(5, &keys(50));
        assert_eq!(found, uniform(5, Purpose::Timestep, &keys(50), 0..1000));
    }
}
