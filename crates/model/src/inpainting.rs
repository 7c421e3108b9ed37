//! What a UNet for inpainting takes in behind the noisy latents: a mask, and the latents of the picture without what the mask covers.

use crate::error::Result;
use crate::stable_diffusion::StableDiffusion;
use crate::unet::UNetConfig;
use sdtrain_state_dict::UnetInput;
use tch::{Kind, Tensor};

impl UNetConfig {
    /// Whether it takes a mask and masked latents besides the noisy ones: 9 channels in, 4 out.
    pub fn takes_mask(&self) -> bool {
        self.in_channels == 2 * self.out_channels + 1
    }
}

impl StableDiffusion {
    /// Whether its UNet is for inpainting.
    pub fn takes_mask(&self) -> bool {
        self.unet.config().takes_mask()
    }

    /// That what its UNet takes in can be given to it, for drawing and for losses.
    ///
    /// # Errors
    /// For one for editing by instruction, with the model's path.
    pub fn check_input(&self) -> Result<()> {
        let channels = self.unet.config().in_channels;
        Ok(UnetInput::of_channels(channels.unsigned_abs() as usize).check_drawable(&self.path)?)
    }

    /// The channels that a UNet for inpainting takes behind the noisy latents, as diffusers' `prepare_mask_latents` makes them: the mask at
    /// the latents' size, and the scaled latents of `pixels` with 0, a middle grey, where the mask is. `noise` draws from the VAE's
    /// distribution.
    ///
    /// # Shapes
    /// pixels: `[batch, 3, height, width]` in -1…1; mask: `[batch, 1, height, width]`, 1 where the picture is painted anew, else 0;
    /// noise: `[draws, latent_channels, height/f, width/f]`, where `draws` may be more than a batch of 1 → `[draws, 5, …]`, f32 on the
    /// model's device
    pub fn mask_channels(&self, pixels: &Tensor, mask: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let masked = sdtrain_torch::catch(|| pixels * mask.lt(0.5))?;
        let latents = self.encode_images(&masked, Some(noise))?;
        let size = latents.size();
        let mask = nearest_latent_mask(mask, size[2], size[3])?
            .f_to_device(self.device)?
            .f_expand([size[0], 1, size[2], size[3]], true)?;
        Ok(Tensor::f_cat(&[mask, latents], 1)?)
    }
}

/// What the UNet takes in: `noisy_latents`, and behind them what one for inpainting is shown of the picture, in the type `kind`.
///
/// # Shapes
/// noisy_latents: `[batch, 4, height, width]`; mask_channels: `[batch, 5, height, width]`, as [`StableDiffusion::mask_channels`] makes them
pub fn unet_input(noisy_latents: Tensor, mask_channels: Option<&Tensor>, kind: Kind) -> Tensor {
    let noisy_latents = noisy_latents.to_kind(kind);
    match mask_channels {
        Some(channels) => Tensor::cat(&[noisy_latents, channels.to_kind(kind)], 1),
        None => noisy_latents,
    }
}

/// A mask for inpainting at the size of the latents, f32: that of the first pixel of each latent's area, so that it stays 0 or 1 (diffusers
/// takes the nearest one). The loss takes averages in its place.
///
/// # Shapes
/// mask: `[batch, 1, height, width]` → `[batch, 1, latent_height, latent_width]`
pub fn nearest_latent_mask(mask: &Tensor, latent_height: i64, latent_width: i64) -> Result<Tensor> {
    let mask = mask.f_to_kind(Kind::Float)?;
    Ok(mask.f_upsample_nearest2d([latent_height, latent_width], None, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_latent_is_masked_as_its_first_pixel_is() {
        let mask = Tensor::zeros([1, 1, 4, 8], (Kind::Float, Device::Cpu));
        let _ = mask.narrow(3, 4, 1).fill_(1.0);
        let _ = mask.narrow(3, 1, 1).fill_(1.0);
        let found = Vec::<f32>::try_from(nearest_latent_mask(&mask, 1, 2).unwrap().flatten(0, -1)).unwrap();
        assert_eq!(found, [0.0, 1.0]);
    }

    #[test]
    fn what_a_unet_is_shown_stands_behind_the_noisy_latents() {
        let latents = || Tensor::zeros([2, 4, 1, 1], (Kind::Float, Device::Cpu));
        assert_eq!(unet_input(latents(), None, Kind::BFloat16).size(), [2, 4, 1, 1]);
        let input =
            unet_input(latents(), Some(&Tensor::ones([2, 5, 1, 1], (Kind::Float, Device::Cpu))), Kind::BFloat16);
        assert_eq!((input.size(), input.kind()), (vec![2, 9, 1, 1], Kind::BFloat16));
        assert_eq!(
            (input.narrow(1, 0, 4).sum(Kind::Float).double_value(&[]), input.double_value(&[0, 4, 0, 0])),
            (0.0, 1.0)
        );
    }

    #[test]
    fn a_unet_for_inpainting_is_told_by_its_channels() {
        let plain = UNetConfig::default();
        assert!(!plain.takes_mask());
        assert!(UNetConfig { in_channels: 9, ..plain.clone() }.takes_mask());
        assert!(!UNetConfig { in_channels: 8, ..plain }.takes_mask());
    }
}
