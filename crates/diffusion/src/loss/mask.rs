//! Masks: which places of an image the loss looks at.

use tch::{Kind, Tensor};

/// No mask has a smaller mean that is not 0: one pixel of 16,384 × 16,384, at 1/255.
const SMALLEST_MEAN: f64 = 1e-12;

/// A mask at the size of the latents: the average of each latent's area, as kohya's scripts take it.
///
/// # Shapes
/// mask: `[batch, 1, height, width]` in pixels; result: `[batch, 1, latent height, latent width]`
pub fn latent_mask(mask: &Tensor, latent_height: i64, latent_width: i64) -> Tensor {
    mask.adaptive_avg_pool2d([latent_height, latent_width])
}

/// distances · max(mask, unmasked_weight), divided by the mean of that factor over the example if `normalize`.
///
/// With `unmasked_weight` 0 and without `normalize` it is kohya's masked loss, with both OneTrainer's. An example whose mask is
/// 0 everywhere has a loss of 0.
///
/// # Shapes
/// distances: `[batch, channels, height, width]`; mask: `[batch, 1, height, width]`, 0 to 1
pub fn masked(distances: &Tensor, mask: &Tensor, unmasked_weight: f64, normalize: bool) -> Tensor {
    let factor = mask.clamp(unmasked_weight, 1.0);
    let masked = distances * &factor;
    match normalize {
        true => {
            let means = factor.mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float);
            masked / means.clamp_min(SMALLEST_MEAN)
        }
        false => masked,
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn a_latent_counts_by_the_average_of_its_area() {
        let mask = Tensor::zeros([1, 1, 16, 8], (Kind::Float, Device::Cpu));
        let _ = mask.narrow(2, 0, 8).narrow(3, 0, 2).fill_(1.0);
        let latent = Vec::<f32>::try_from(latent_mask(&mask, 2, 1).flatten(0, -1)).unwrap();
        assert_eq!(latent, [0.25, 0.0]);
    }

    #[test]
    fn an_image_that_is_masked_out_counts_nothing() {
        let distances = Tensor::ones([2, 4, 2, 2], (Kind::Float, Device::Cpu));
        let mask = Tensor::cat(
            &[Tensor::zeros([1, 1, 2, 2], (Kind::Float, Device::Cpu)), distances.narrow(0, 0, 1).narrow(1, 0, 1)],
            0,
        );
        for normalize in [false, true] {
            let means = masked(&distances, &mask, 0.0, normalize).mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float);
            assert_eq!(Vec::<f32>::try_from(means).unwrap(), [0.0, 1.0]);
        }
    }
}
