//! Timesteps drawn evenly from a range, one keyed stream an example.

use std::ops::Range;

use sdtrain_random::{Purpose, Stream};
use tch::Tensor;

use crate::ExampleKey;

/// A timestep in `range` for each example, as integers on the CPU: `[batch]`.
///
/// An empty range gives every example its end, which is how a pass at one fixed timestep is asked for (as in kohya's
/// scripts, where `min_timestep ≥ max_timestep` means `max_timestep`).
pub fn uniform(seed: u64, purpose: Purpose, keys: &[ExampleKey], range: Range<i64>) -> Tensor {
    let timesteps: Vec<i64> = keys
        .iter()
        .map(|key| match range.end - range.start {
            width @ 1.. => range.start + Stream::new(seed, purpose, key.epoch, key.example).below(width as u64) as i64,
            _ => range.end,
        })
        .collect();
    Tensor::from_slice(&timesteps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(range: Range<i64>) -> Vec<i64> {
        let keys: Vec<ExampleKey> = (0..20_000).map(|example| ExampleKey { epoch: 0, example }).collect();
        Vec::try_from(uniform(5, Purpose::Timestep, &keys, range)).unwrap()
    }

    #[test]
    fn every_timestep_of_the_range_is_drawn_evenly() {
        let mut counts = [0u32; 10];
        for timestep in draw(100..200) {
            counts[(timestep as usize - 100) / 10] += 1;
        }
        // 2,000 expected in each tenth, standard deviation 42: five of them.
        assert!(counts.iter().all(|&count| (1_790..=2_210).contains(&count)), "{counts:?}");
    }

    #[test]
    fn an_empty_range_is_a_fixed_timestep() {
        assert!(draw(500..500).iter().all(|&timestep| timestep == 500));
    }
}
