//! Between pixels and latents (diffusers: `AutoencoderKL`).

mod config;
mod decoder;
mod encoder;
mod mid_block;

pub use config::VaeConfig;

use crate::builder::Builder;
use crate::error::Result;
use crate::layers::Conv2d;
use crate::parameters::Parameters;
use decoder::Decoder;
use encoder::Encoder;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// A normal distribution over latents, per element.
#[derive(Debug)]
pub struct LatentDistribution {
    /// `[batch, latent_channels, height/f, width/f]`.
    pub mean: Tensor,
    /// Natural logarithm of the variance, clamped to -30…20; same shape.
    pub logvar: Tensor,
}

impl LatentDistribution {
    /// mean + exp(logvar/2) · noise; `noise` is standard normal of the mean's shape.
    pub fn sample(&self, noise: &Tensor) -> Tensor {
        &self.mean + (&self.logvar * 0.5).exp() * noise
    }

    /// How far it is from a standard normal one, for each latent by itself: KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² − 1 − ln σ²) in nats
    /// (Kingma and Welling 2013, arXiv:1312.6114, appendix B). f32, of the mean's shape.
    pub fn kl_divergence(&self) -> Tensor {
        let [mean, logvar] = [&self.mean, &self.logvar].map(|tensor| tensor.to_kind(Kind::Float));
        (mean.square() + logvar.exp() - 1.0 - logvar) * 0.5
    }
}

/// Encoder and decoder.
#[derive(Debug)]
pub struct AutoencoderKL {
    config: VaeConfig,
    parameters: Parameters,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Rc<Conv2d>>,
    post_quant_conv: Option<Rc<Conv2d>>,
}

impl AutoencoderKL {
    /// Builds the network of `config` from the root builder `b`.
    pub fn new(b: Builder, config: &VaeConfig) -> Result<AutoencoderKL> {
        config.check()?;
        let latents = config.latent_channels;
        let encoder = Encoder::new(&b.at("encoder"), config)?;
        let decoder = Decoder::new(&b.at("decoder"), config)?;
        let quant_conv =
            config.use_quant_conv.then(|| b.at("quant_conv").conv2d(2 * latents, 2 * latents, 1, 1, 0)).transpose()?;
        let post_quant_conv = config
            .use_post_quant_conv
            .then(|| b.at("post_quant_conv").conv2d(latents, latents, 1, 1, 0))
            .transpose()?;
        Ok(AutoencoderKL {
            config: config.clone(),
            parameters: b.finish()?,
            encoder,
            decoder,
            quant_conv,
            post_quant_conv,
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Changes what latents are multiplied by before the UNet sees them.
    pub fn set_scaling_factor(&mut self, scaling_factor: f64) {
        self.config.scaling_factor = scaling_factor;
    }

    /// Its parameters and layers.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// pixels: `[batch, 3, height, width]` in -1…1 → the distribution of unscaled latents.
    pub fn encode(&self, pixels: &Tensor) -> LatentDistribution {
        let hidden = self.encoder.forward(pixels);
        let moments = match &self.quant_conv {
            Some(conv) => conv.forward(&hidden),
            None => hidden,
        };
        let halves = moments.contiguous().chunk(2, 1);
        let [mean, logvar] = &halves[..] else { unreachable!("chunk(2) gives two") };
        LatentDistribution { mean: mean.shallow_clone(), logvar: logvar.clamp(-30.0, 20.0) }
    }

    /// latents: `[batch, latent_channels, h, w]`, unscaled → pixels `[batch, 3, h·f, w·f]`, about -1…1.
    pub fn decode(&self, latents: &Tensor) -> Tensor {
        let hidden = match &self.post_quant_conv {
            Some(conv) => conv.forward(latents),
            None => latents.shallow_clone(),
        };
        self.decoder.forward(&hidden).contiguous()
    }
}
