//! The noise that an example gets: a base draw, and what is added to it.
//!
//! Every option is a formula over given draws, which golden files hold it to, and [`draw`] is the draws: each keyed by its example,
//! strengths too, so that what an example gets does not depend on its batch.

mod gaussian;
mod multires;
mod offset;
mod perturbation;

pub use gaussian::gaussian;
pub use multires::{level_sizes, normalised, pyramid};
pub use offset::{adaptive_strengths, offset};
pub use perturbation::perturbed;

use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::{MultiresNorm, NoiseConfig};
use tch::{Device, Kind, Tensor};

use crate::ExampleKey;

/// The noise of a batch, fp32 on the CPU.
#[derive(Debug)]
pub struct TrainingNoise {
    /// What the target is made of: `[batch, channels, height, width]`.
    pub noise: Tensor,
    /// What is added to the latents, where that is another: same shape.
    pub input_noise: Option<Tensor>,
}

/// Draws the noise for `latents` with every option of `config`, in their order: offset, perturbation, levels, input perturbation.
///
/// # Shapes
/// latents: `[batch, channels, height, width]`, scaled, on any device
pub fn draw(config: &NoiseConfig, seed: u64, keys: &[ExampleKey], latents: &Tensor) -> TrainingNoise {
    let shape = &latents.size()[1..];
    let mut noise = gaussian(seed, Purpose::Noise, keys, shape);
    // Off means that nothing is drawn and nothing is rounded.
    if config.offset != 0.0 {
        let random = config.offset_random_strength.then_some(Purpose::NoiseOffsetStrength);
        let mut strengths = strengths(config.offset, random, seed, keys);
        if config.adaptive_offset_scale != 0.0 {
            strengths = adaptive_strengths(&strengths, config.adaptive_offset_scale, latents).to_device(Device::Cpu);
        }
        noise = offset(&noise, &strengths, &gaussian(seed, Purpose::NoiseOffset, keys, &[shape[0], 1, 1]));
    }
    if config.perturbation != 0.0 {
        let strength = strengths(config.perturbation, None, seed, keys);
        noise = perturbed(&noise, &strength, &gaussian(seed, Purpose::Perturbation, keys, shape));
    }
    if config.multires_iterations > 0 {
        noise = multires::with_levels(&noise, config, seed, keys);
        noise = normalised(&noise, config.multires_norm == Some(MultiresNorm::Batch));
    }
    let input_noise = (config.input_perturbation != 0.0).then(|| {
        let random = config.input_perturbation_random_strength.then_some(Purpose::InputPerturbationStrength);
        let strengths = strengths(config.input_perturbation, random, seed, keys);
        perturbed(&noise, &strengths, &gaussian(seed, Purpose::InputPerturbation, keys, shape))
    });
    TrainingNoise { noise, input_noise }
}

/// A strength for each example, `[batch, 1, 1, 1]`: the same for all, or drawn evenly from 0 to it where it is `random`.
fn strengths(strength: f64, random: Option<Purpose>, seed: u64, keys: &[ExampleKey]) -> Tensor {
    let draw = |key: &ExampleKey| match random {
        Some(purpose) => strength * Stream::new(seed, purpose, key.epoch, key.example).uniform(),
        None => strength,
    };
    let strengths: Vec<f64> = keys.iter().map(draw).collect();
    Tensor::from_slice(&strengths).to_kind(Kind::Float).view([-1, 1, 1, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ExampleKey = ExampleKey { epoch: 2, example: 7 };
    const B: ExampleKey = ExampleKey { epoch: 2, example: 8 };

    fn everything() -> NoiseConfig {
        NoiseConfig {
            offset: 0.1,
            offset_random_strength: true,
            adaptive_offset_scale: 0.2,
            perturbation: 0.1,
            multires_iterations: 6,
            input_perturbation: 0.3,
            input_perturbation_random_strength: true,
            ..NoiseConfig::default()
        }
    }

    fn latents() -> Tensor {
        Tensor::linspace(-2.0, 3.0, 2 * 4 * 8 * 8, (Kind::Float, Device::Cpu)).view([2, 4, 8, 8])
    }

    #[test]
    fn an_example_gets_the_same_noise_in_any_batch_with_every_option() {
        let both = draw(&everything(), 3, &[A, B], &latents());
        let swapped = draw(&everything(), 3, &[B, A], &latents().flip([0]));
        let alone = draw(&everything(), 3, &[B], &latents().narrow(0, 1, 1));
        let of = |noise: &TrainingNoise, row| (noise.noise.get(row), noise.input_noise.as_ref().unwrap().get(row));
        assert_eq!(of(&both, 0), of(&swapped, 1));
        assert_eq!(of(&both, 1), of(&alone, 0));
        assert_ne!(both.noise.get(0), both.noise.get(1));
    }

    #[test]
    fn without_options_it_is_the_plain_draw() {
        let plain = draw(&NoiseConfig::default(), 3, &[A, B], &latents());
        assert_eq!(plain.noise, gaussian(3, Purpose::Noise, &[A, B], &[4, 8, 8]));
        assert!(plain.input_noise.is_none());
    }

    #[test]
    fn the_input_alone_is_perturbed() {
        let config = NoiseConfig { input_perturbation: 0.5, ..NoiseConfig::default() };
        let drawn = draw(&config, 3, &[A, B], &latents());
        assert_eq!(drawn.noise, draw(&NoiseConfig::default(), 3, &[A, B], &latents()).noise);
        let added = (drawn.input_noise.unwrap() - drawn.noise).std(true).double_value(&[]);
        assert!((added - 0.5).abs() < 0.05, "{added}"); // 512 draws: its own deviation is 0.016
    }

    #[test]
    fn random_strengths_lie_evenly_below_the_one_that_is_set() {
        let keys: Vec<ExampleKey> = (0..4000).map(|example| ExampleKey { epoch: 0, example }).collect();
        let drawn = strengths(0.2, Some(Purpose::NoiseOffsetStrength), 1, &keys);
        assert!(drawn.min().double_value(&[]) >= 0.0 && drawn.max().double_value(&[]) < 0.2);
        let mean = drawn.mean(Kind::Float).double_value(&[]);
        assert!((mean - 0.1).abs() < 0.005, "{mean}"); // the mean's own deviation is 0.0009
    }

    #[test]
    fn levels_over_the_batch_have_one_deviation_together() {
        let config = NoiseConfig { multires_iterations: 6, ..NoiseConfig::default() };
        let batch = NoiseConfig { multires_norm: Some(MultiresNorm::Batch), ..config.clone() };
        let deviation = |noise: &Tensor| noise.std(true).double_value(&[]);
        let own = draw(&config, 3, &[A, B], &latents()).noise;
        let together = draw(&batch, 3, &[A, B], &latents()).noise;
        for row in 0..2 {
            assert!((deviation(&own.get(row)) - 1.0).abs() < 1e-5);
            assert!((deviation(&together.get(row)) - 1.0).abs() > 1e-4);
        }
        assert!((deviation(&together) - 1.0).abs() < 1e-5);
    }
}
