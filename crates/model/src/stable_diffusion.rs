//! The bundle: tokenizer, text encoder, VAE, UNet and noise schedule of one model.

use crate::error::Result;
use crate::learned_words::LearnedWords;
use crate::text_encoder::ClipTextModel;
use crate::unet::UNet2DConditionModel;
use crate::vae::AutoencoderKL;
use sdtrain_diffusion::SchedulerConfig;
use sdtrain_tokenizer::ClipTokenizer;
use std::path::PathBuf;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// A loaded model of the SD1 family.
pub struct StableDiffusion {
    /// Where it came from, for messages and metadata.
    pub path: PathBuf,
    /// Text to ids, with the vocabulary that the model came with.
    pub tokenizer: Rc<ClipTokenizer>,
    /// Words beyond it.
    pub(crate) learned: LearnedWords,
    /// Ids to states.
    pub text_encoder: ClipTextModel,
    /// Pixels to latents and back.
    pub vae: AutoencoderKL,
    /// The denoiser.
    pub unet: UNet2DConditionModel,
    /// Noise schedule and the sampler the model was made for.
    pub scheduler: SchedulerConfig,
    /// Where its tensors are.
    pub device: Device,
    /// Dtype of activations.
    pub compute: Kind,
}

impl StableDiffusion {
    /// How many pixels a latent spans in each direction.
    pub fn downscale_factor(&self) -> usize {
        self.vae.config().downscale_factor()
    }

    /// Sides of training images must be multiples of this many pixels, so that every level of the UNet halves evenly.
    pub fn bucket_step(&self) -> usize {
        self.downscale_factor() << (self.unet.config().block_out_channels.len() - 1)
    }

    /// Scaled latents of `pixels` (`[batch, 3, height, width]` in -1…1), f32, without gradients: a draw from the
    /// VAE's distribution with `noise` (`[batch, latent_channels, height/f, width/f]`, f32), or its mean.
    pub fn encode_images(&self, pixels: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let config = self.vae.config();
        let kind = self.vae_kind();
        Ok(sdtrain_torch::catch(|| {
            tch::no_grad(|| {
                let distribution = self.vae.encode(&pixels.to_device(self.device).to_kind(kind));
                let latents = match noise {
                    Some(noise) => distribution.sample(&noise.to_device(self.device).to_kind(kind)),
                    None => distribution.mean,
                };
                (latents * config.scaling_factor).to_kind(Kind::Float)
            })
        })?)
    }

    /// Mean and log-variance of the unscaled latents of `pixels` (`[batch, 3, height, width]` in -1…1): each
    /// `[batch, latent_channels, height/f, width/f]`, f32 on the host, without gradients.
    pub fn latent_distribution(&self, pixels: &Tensor) -> Result<(Tensor, Tensor)> {
        let kind = self.vae_kind();
        Ok(sdtrain_torch::catch(|| {
            tch::no_grad(|| {
                let distribution = self.vae.encode(&pixels.to_device(self.device).to_kind(kind));
                let on_host = |t: Tensor| t.to_kind(Kind::Float).to_device(Device::Cpu);
                (on_host(distribution.mean), on_host(distribution.logvar))
            })
        })?)
    }

    /// Pixels of scaled `latents`: `[batch, 3, h·f, w·f]`, f32, clamped to -1…1, without gradients.
    pub fn decode_latents(&self, latents: &Tensor) -> Result<Tensor> {
        let config = self.vae.config();
        let kind = self.vae_kind();
        Ok(sdtrain_torch::catch(|| {
            tch::no_grad(|| {
                let unscaled = (latents / config.scaling_factor).to_kind(kind);
                self.vae.decode(&unscaled).to_kind(Kind::Float).clamp(-1.0, 1.0)
            })
        })?)
    }

    fn vae_kind(&self) -> Kind {
        self.vae.parameters().iter().next().map_or(Kind::Float, |(_, parameter)| parameter.kind())
    }
}
