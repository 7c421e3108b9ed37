//! Noise offset: one more draw a channel, so that a model learns to make very dark and very bright images
//! (<https://www.crosslabs.org/blog/diffusion-with-offset-noise>).

use sdtrain_random::Purpose;
use tch::Tensor;

use super::gaussian;
use crate::ExampleKey;

/// The noise plus `strength` times a standard normal draw for each example and channel.
///
/// # Shapes
/// noise: `[batch, channels, height, width]`
pub fn offset(noise: &Tensor, strength: f64, seed: u64, keys: &[ExampleKey]) -> Tensor {
    // Off means that nothing is drawn and nothing is rounded.
    if strength == 0.0 {
        return noise.shallow_clone();
    }
    let draw = gaussian(seed, Purpose::NoiseOffset, keys, &[noise.size()[1], 1, 1]);
    noise + draw.to_device(noise.device()).to_kind(noise.kind()) * strength
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [ExampleKey; 2] = [ExampleKey { epoch: 0, example: 0 }, ExampleKey { epoch: 0, example: 1 }];

    #[test]
    fn adds_one_number_to_each_channel() {
        let noise = gaussian(1, Purpose::Noise, &KEYS, &[3, 4, 4]);
        let added = offset(&noise, 0.05, 1, &KEYS) - &noise;
        let spread = added.amax([2, 3], false) - added.amin([2, 3], false);
        assert!(spread.max().double_value(&[]) < 1e-6); // fp32, values up to 4
        assert!(added.std(true).double_value(&[]) > 0.01);
    }

    #[test]
    fn a_strength_of_zero_changes_nothing() {
        let noise = gaussian(1, Purpose::Noise, &KEYS, &[3, 4, 4]);
        assert_eq!(offset(&noise, 0.0, 1, &KEYS), noise);
    }
}
