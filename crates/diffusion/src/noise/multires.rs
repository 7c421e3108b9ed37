//! Multi-resolution noise: noise of ever coarser grain added to the first
//! (<https://wandb.ai/johnowhitaker/multires_noise/reports/Multi-Resolution-Noise-for-Diffusion-Model-Training--VmlldzozNjYyOTU2>).

use sdtrain_random::{Purpose, Stream};
use sdtrain_recipe::NoiseConfig;
use tch::{Kind, Tensor};

use crate::ExampleKey;

/// Height and width of each level: ⌊side / ratioⁱ⌋ with level i's own ratio, at least 1. The first level has full size, and none
/// comes behind one that is 1 high or 1 wide.
pub fn level_sizes(height: i64, width: i64, ratios: &[f64]) -> Vec<(i64, i64)> {
    let mut sizes = Vec::new();
    for (level, ratio) in ratios.iter().enumerate() {
        let side = |length: i64| ((length as f64 / ratio.powi(level as i32)) as i64).max(1);
        sizes.push((side(height), side(width)));
        if sizes.last().is_some_and(|size| size.0 == 1 || size.1 == 1) {
            break;
        }
    }
    sizes
}

/// noise + Σ discountⁱ · levelᵢ, each level scaled up linearly to the size of the noise (with `align_corners = false`).
///
/// # Shapes
/// noise: `[batch, channels, height, width]`; a level: `[batch, channels, its height, its width]`
pub fn pyramid(noise: &Tensor, levels: &[Tensor], discount: f64) -> Tensor {
    let size = &noise.size()[2..];
    let mut sum = noise.shallow_clone();
    for (level, draw) in levels.iter().enumerate() {
        sum += draw.upsample_bilinear2d(size, false, None, None) * discount.powi(level as i32);
    }
    sum
}

/// The noise at a standard deviation (with n − 1) of 1, of each example by itself or of the whole batch.
pub fn normalised(noise: &Tensor, over_batch: bool) -> Tensor {
    match over_batch {
        true => noise / noise.std(true),
        false => noise / noise.std_dim([1i64, 2, 3].as_slice(), true, true),
    }
}

/// The noise with every level, not yet normalised.
pub(super) fn with_levels(noise: &Tensor, config: &NoiseConfig, seed: u64, keys: &[ExampleKey]) -> Tensor {
    let &[_, channels, height, width] = noise.size().as_slice() else {
        unreachable!("noise is [batch, channels, height, width]")
    };
    let rows: Vec<Tensor> = (0i64..)
        .zip(keys)
        .map(|(row, key)| {
            let mut stream = Stream::new(seed, Purpose::MultiresNoise, key.epoch, key.example);
            // Evenly from 2 to 4, anew for each level.
            let ratios: Vec<f64> = (0..config.multires_iterations).map(|_| 2.0 + 2.0 * stream.uniform()).collect();
            let levels: Vec<Tensor> = level_sizes(height, width, &ratios)
                .into_iter()
                .map(|(height, width)| {
                    let mut values = vec![0f32; (channels * height * width) as usize];
                    stream.fill_normal(&mut values);
                    Tensor::from_slice(&values).view([1, channels, height, width])
                })
                .collect();
            pyramid(&noise.narrow(0, row, 1), &levels, config.effective_multires_discount())
        })
        .collect();
    Tensor::cat(&rows, 0).to_kind(Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_shrink_by_powers_of_their_own_ratio_down_to_one() {
        assert_eq!(level_sizes(64, 48, &[3.0, 2.0, 2.5, 4.0, 2.0]), [(64, 48), (32, 24), (10, 7), (1, 1)]);
        assert_eq!(level_sizes(64, 2, &[3.0, 2.0, 2.0]), [(64, 2), (32, 1)]);
        assert_eq!(level_sizes(1, 1, &[2.0, 2.0]), [(1, 1)]);
    }

    #[test]
    fn a_level_of_one_pixel_is_an_offset() {
        let noise = Tensor::zeros([1, 2, 3, 3], (Kind::Float, tch::Device::Cpu));
        let full = noise.ones_like();
        let pixel = Tensor::from_slice(&[1f32, -2.0]).view([1, 2, 1, 1]);
        let sum = pyramid(&noise, &[full, pixel.shallow_clone()], 0.5);
        assert_eq!(sum, (pixel * 0.5 + 1.0).expand([1, 2, 3, 3], false));
    }
}
