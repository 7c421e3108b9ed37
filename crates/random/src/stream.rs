//! One stream of random numbers, keyed by everything that may tell it from another.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::Purpose;

/// A ChaCha8 stream whose key *is* `(seed, purpose, epoch, example)`: equal keys give equal numbers, and two
/// keys that differ anywhere give unrelated ones.
///
/// `uniform`, `below` and `shuffle` are defined here on the raw 64-bit words, so that they cannot change with
/// a dependency; normals are `rand_distr`'s, and a golden test watches over them.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of one purpose for one example in one epoch. Where there is no epoch or no example, pass 0.
    pub fn new(seed: u64, purpose: Purpose, epoch: u64, example: u64) -> Self {
        // The coordinates fill the 256-bit key exactly; no hash, so no two of them can collide.
        let mut key = [0u8; 32];
        key[0..8].copy_from_slice(&seed.to_le_bytes());
        key[8..12].copy_from_slice(&purpose.code().to_le_bytes());
        key[16..24].copy_from_slice(&epoch.to_le_bytes());
        key[24..32].copy_from_slice(&example.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An integer in `[0, n)`, every one equally likely; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // Multiply-shift with rejection of the few values that would make some results likelier
        // (Lemire 2019, arXiv:1805.10941).
        if n == 0 {
            return 0;
        }
        let rejected_below = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= rejected_below {
                return (product >> 64) as u64;
            }
        }
    }

    /// A draw from the standard normal distribution.
    pub fn normal_f32(&mut self) -> f32 {
        StandardNormal.sample(&mut self.0)
    }

    /// Fills a slice with draws from the standard normal distribution, first element first.
    pub fn fill_normal(&mut self, values: &mut [f32]) {
        for value in values {
            *value = self.normal_f32();
        }
    }

    /// Puts the items in a uniformly random order (Fisher–Yates, from the end).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let chosen = self.below(last as u64 + 1) as usize;
            items.swap(last, chosen);
        }
    }

    /// The generator underneath, for distributions that are not offered here.
    pub fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::new(42, Purpose::Noise, 3, 7)
    }

    #[test]
    fn raw_words_are_the_golden_ones() {
        let mut s = stream();
        let words: Vec<u64> = (0..4).map(|_| s.next_u64()).collect();
        // The same words come from a ChaCha8 written from its definition in another language.
        let golden = [1105895141451669579, 9194189384687186595, 12851465424035396171, 4918870440486829302];
        assert_eq!(words, golden);
    }

    #[test]
    fn uniform_below_and_normal_are_the_golden_ones() {
        let mut s = stream();
        let uniform: Vec<f64> = (0..3).map(|_| s.uniform()).collect();
        assert_eq!(uniform, [0.059950695745153215, 0.4984180052560505, 0.696679336618076]);
        let mut s = stream();
        let below: Vec<u64> = (0..8).map(|_| s.below(1000)).collect();
        assert_eq!(below, [59, 498, 696, 266, 358, 381, 603, 784]);
        let mut s = stream();
        let mut normal = [0f32; 6];
        s.fill_normal(&mut normal);
        let golden = [0xbfd93216, 0xbb86d18c, 0x3f422687, 0xbe7d3dd7, 0xbf1da517, 0xbed45473];
        assert_eq!(normal.map(f32::to_bits), golden, "{normal:?}");
        let mut items: Vec<u32> = (0..10).collect();
        stream().shuffle(&mut items);
        assert_eq!(items, [8, 9, 3, 7, 6, 2, 1, 5, 4, 0]);
    }

    #[test]
    fn every_coordinate_matters() {
        let first = |mut s: Stream| s.next_u64();
        let base = first(stream());
        assert_ne!(base, first(Stream::new(43, Purpose::Noise, 3, 7)));
        assert_ne!(base, first(Stream::new(42, Purpose::Timestep, 3, 7)));
        assert_ne!(base, first(Stream::new(42, Purpose::Noise, 4, 7)));
        assert_ne!(base, first(Stream::new(42, Purpose::Noise, 3, 8)));
        assert_ne!(first(Stream::new(42, Purpose::Noise, 7, 3)), base, "epoch and example must not be interchangeable");
    }

    #[test]
    fn equal_keys_give_equal_numbers() {
        let (mut a, mut b) = (stream(), stream());
        assert!((0..1000).all(|_| a.next_u64() == b.next_u64()));
    }

    #[test]
    fn below_is_even_and_in_range() {
        let mut s = stream();
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[s.below(7) as usize] += 1;
        }
        // 10,000 expected each, standard deviation 93: five of them.
        assert!(counts.iter().all(|&c| (9_535..=10_465).contains(&c)), "{counts:?}");
        assert_eq!(s.below(0), 0);
        assert_eq!(s.below(1), 0);
        assert!(s.below(u64::MAX) < u64::MAX);
    }

    #[test]
    fn below_is_even_where_the_range_does_not_divide_the_words() {
        // Of 2⁶⁴ words, the multiples of three in 0..3·2⁶² would get half instead of a third.
        let mut s = stream();
        let thirds = (0..30_000).filter(|_| s.below(3 << 62).is_multiple_of(3)).count();
        // 10,000 expected, standard deviation 82: five of them.
        assert!((9_590..=10_410).contains(&thirds), "{thirds}");
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let mut values = vec![0f32; 100_000];
        stream().fill_normal(&mut values);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        // Five standard errors: 5/√n for the mean, 5·√(2/n) for the variance.
        assert!(mean.abs() < 0.016, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.023, "variance {variance}");
    }
}
