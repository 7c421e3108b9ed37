//! `[vae_objective]`: what the autoencoder is asked for while it is trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the autoencoder is asked for: the sum of these terms, each times its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VaeConfig {
    /// Weight of the mean absolute difference between an image and its reconstruction.
    pub l1_weight: f64,

    /// Weight of the mean squared difference between an image and its reconstruction.
    pub l2_weight: f64,

    /// Weight of the divergence of the latents from a normal distribution, summed over an image's latents.
    pub kl_weight: f64,

    /// Weight of the mean absolute difference between neighbouring-pixel differences, which sharpens edges.
    pub gradient_weight: f64,

    /// Weight of LPIPS, the difference between what a VGG16 sees in an image and in its reconstruction; needs
    /// `vae_objective.lpips`.
    #[schemars(extend("x-other-names" = ["lpips_scale", "perceptual_weight"]))]
    pub lpips_weight: f64,

    /// The network of LPIPS: a `.safetensors` file with the state dict of `lpips.LPIPS(net="vgg")`. With it LPIPS is also measured
    /// on held-out images, whatever its weight.
    pub lpips: Option<PathBuf>,

    /// Train the encoder as well. Off: only the decoder learns, and latents keep their meaning for an existing UNet.
    pub train_encoder: bool,

    /// What the product holds. `full.format` says whether it is one file or a diffusers folder.
    pub product: VaeProduct,
}

/// What the product of a VAE's training holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VaeProduct {
    /// The whole model with the new autoencoder in it.
    Model,
    /// The autoencoder alone: a file with the original names, as `model.vae` and other programs take it, or a folder for
    /// diffusers' `AutoencoderKL.from_pretrained`. A file has no place for the scale of the latents, which changes with the encoder.
    Vae,
}

impl Default for VaeConfig {
    fn default() -> Self {
        VaeConfig {
            l1_weight: 1.0,
            l2_weight: 0.0,
            kl_weight: 1e-6,
            gradient_weight: 0.0,
            lpips_weight: 0.0,
            lpips: None,
            train_encoder: true,
            product: VaeProduct::Model,
        }
    }
}
