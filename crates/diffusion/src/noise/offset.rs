//! Noise offset: one more draw a channel, so that a model learns to make very dark and very bright images
//! (<https://www.crosslabs.org/blog/diffusion-with-offset-noise>).

use tch::{Kind, Tensor};

/// noise + strength · draw.
///
/// # Shapes
/// noise: `[batch, channels, height, width]`; strengths: `[batch, channels or 1, 1, 1]`; draw: `[batch, channels, 1, 1]`
pub fn offset(noise: &Tensor, strengths: &Tensor, draw: &Tensor) -> Tensor {
    noise + draw * strengths
}

/// max(0, strength + scale · |mean of the channel|), with the mean over the scaled latents (`adaptive_noise_scale` of kohya's
/// scripts). A negative scale makes it weaker where a channel is far from 0, down to none.
///
/// # Shapes
/// strengths: `[batch, 1, 1, 1]`; latents: `[batch, channels, height, width]`; result: `[batch, channels, 1, 1]`, on the device
/// of the latents
pub fn adaptive_strengths(strengths: &Tensor, scale: f64, latents: &Tensor) -> Tensor {
    let means = latents.to_kind(Kind::Float).mean_dim([2i64, 3].as_slice(), true, Kind::Float).abs();
    (strengths.to_device(latents.device()) + means * scale).clamp_min(0.0)
}

#[cfg(test)]
mod tests {
    use sdtrain_random::Purpose;

    use super::*;
    use crate::ExampleKey;
    use crate::noise::gaussian;

    const KEYS: [ExampleKey; 2] = [ExampleKey { epoch: 0, example: 0 }, ExampleKey { epoch: 0, example: 1 }];

    #[test]
    fn adds_one_number_to_each_channel() {
        let noise = gaussian(1, Purpose::Noise, &KEYS, &[3, 4, 4]);
        let draw = gaussian(1, Purpose::NoiseOffset, &KEYS, &[3, 1, 1]);
        let strengths = Tensor::from_slice(&[0.05f32, 0.1]).view([2, 1, 1, 1]);
        let added = offset(&noise, &strengths, &draw) - &noise;
        let spread = added.amax([2, 3], false) - added.amin([2, 3], false);
        assert!(spread.max().double_value(&[]) < 1e-6); // fp32, values up to 4
        assert!(added.std(true).double_value(&[]) > 0.01);
    }

    #[test]
    fn a_negative_scale_goes_down_to_none_and_no_further() {
        let latents = Tensor::from_slice(&[0.1f32, -0.1, 2.0, -2.0]).view([1, 4, 1, 1]);
        let strengths = adaptive_strengths(&Tensor::from_slice(&[0.1f32]).view([1, 1, 1, 1]), -0.5, &latents);
        let strengths = Vec::<f32>::try_from(strengths.flatten(0, -1)).unwrap();
        assert_eq!(strengths, [0.05, 0.05, 0.0, 0.0]);
    }
}
