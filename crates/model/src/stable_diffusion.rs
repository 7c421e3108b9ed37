//! The bundle: text encoders with their tokenizers, VAE, UNet and noise schedule of one model.

use crate::builder::{Builder, Source};
use crate::error::{Error, Result};
use crate::learned_words::LearnedWords;
use crate::load::{LoadOptions, load_text_encoders, load_vae};
use crate::parameters::{Parameters, sampled};
use crate::save::TensorReader;
use crate::text_encoder::TextEncoder;
use crate::unet::UNet2DConditionModel;
use crate::vae::{AutoencoderKL, LatentDistribution};
use sdtrain_diffusion::SchedulerConfig;
use sdtrain_state_dict::Family;
use sdtrain_tokenizer::PromptTokenizer;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// A text encoder and what it reads prompts with.
pub struct PromptEncoder {
    /// Its folder in a diffusers folder, and what its parameters' names begin with in traces and adapters: `text_encoder`, or
    /// `text_encoder_2`.
    pub name: &'static str,
    /// Text to ids, with the vocabulary that the model came with.
    pub tokenizer: Rc<PromptTokenizer>,
    /// Ids to states.
    pub network: Box<dyn TextEncoder>,
}

/// A loaded model.
pub struct StableDiffusion {
    /// Where it came from, for messages and metadata.
    pub path: PathBuf,
    /// What it is one of: what its files are called like, and adapters for it say of themselves.
    pub family: Family,
    /// Text to states, in the order in which these stand beside each other.
    pub text_encoders: Vec<PromptEncoder>,
    /// Words beyond the vocabulary.
    pub(crate) learned: LearnedWords,
    /// Pixels to latents and back.
    pub vae: AutoencoderKL,
    /// The denoiser.
    pub unet: UNet2DConditionModel,
    /// Noise schedule and the sampler the model was made for.
    pub scheduler: SchedulerConfig,
    /// Where there is no negative prompt, zeros stand for the states of an empty one.
    pub zeros_for_empty_prompt: bool,
    /// Where its tensors are.
    pub device: Device,
    /// Dtype of activations.
    pub compute: Kind,
    /// Tensors of its single file that belong to no network, in words.
    pub unknown_tensors: Option<String>,
    pub(crate) origin: Origin,
    /// Networks without weights at present, and samples of those that they had.
    pub(crate) unloaded: RefCell<BTreeMap<Frozen, Vec<Sample>>>,
}

/// How a model was loaded, so that a part of it can be loaded again.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub location: String,
    pub options: LoadOptions,
    /// UNet and text encoder are not what the files hold.
    pub edited: bool,
}

/// A network that a run can do without between its uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frozen {
    /// Once all latents are encoded, until a picture is decoded.
    Vae,
    /// All text encoders: once all prompts are encoded, until another one comes.
    TextEncoder,
}

impl StableDiffusion {
    /// The tokenizer that the first text encoder came with.
    pub fn tokenizer(&self) -> &Rc<PromptTokenizer> {
        &self.text_encoders[0].tokenizer
    }

    /// Every network with what its parameters' names begin with: UNet, VAE, text encoders.
    pub fn networks(&self) -> Vec<(&'static str, &Parameters)> {
        let of_text = self.text_encoders.iter().map(|encoder| (encoder.name, encoder.network.parameters()));
        [("unet", self.unet.parameters()), ("vae", self.vae.parameters())].into_iter().chain(of_text).collect()
    }

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
        self.ensure_loaded(Frozen::Vae)?;
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

    /// The distribution of the unscaled latents of `pixels` (`[batch, 3, height, width]` in -1…1): f32 on the host, without gradients.
    pub fn latent_distribution(&self, pixels: &Tensor) -> Result<LatentDistribution> {
        self.ensure_loaded(Frozen::Vae)?;
        let kind = self.vae_kind();
        Ok(sdtrain_torch::catch(|| {
            tch::no_grad(|| {
                let distribution = self.vae.encode(&pixels.to_device(self.device).to_kind(kind));
                let on_host = |t: Tensor| t.to_kind(Kind::Float).to_device(Device::Cpu);
                LatentDistribution { mean: on_host(distribution.mean), logvar: on_host(distribution.logvar) }
            })
        })?)
    }

    /// Pixels of scaled `latents`: `[batch, 3, h·f, w·f]`, f32, clamped to -1…1, without gradients.
    pub fn decode_latents(&self, latents: &Tensor) -> Result<Tensor> {
        self.ensure_loaded(Frozen::Vae)?;
        let config = self.vae.config();
        let kind = self.vae_kind();
        Ok(sdtrain_torch::catch(|| {
            tch::no_grad(|| {
                let unscaled = (latents / config.scaling_factor).to_kind(kind);
                self.vae.decode(&unscaled).to_kind(Kind::Float).clamp(-1.0, 1.0)
            })
        })?)
    }

    /// A second UNet with the weights that the model's has now, in the compute dtype and without adapters.
    pub fn frozen_unet(&self) -> Result<UNet2DConditionModel> {
        let weights = TensorReader::of(self.unet.parameters(), Some(self.compute));
        let builder = Builder::new(Source::File(&weights), self.compute, self.device);
        UNet2DConditionModel::new(builder, self.unet.config())
    }

    /// What `work` gives with all adapters switched off, so that the model is the base it was loaded as.
    pub fn without_adapters<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Switches them on again also where `work` panics.
        struct Off<'m>(&'m StableDiffusion);
        impl Off<'_> {
            fn switch(&self, on: bool) {
                let layers = self.0.networks().into_iter().flat_map(|(_, parameters)| parameters.layers());
                layers.for_each(|(_, layer)| layer.switch_adapters(on));
            }
        }
        impl Drop for Off<'_> {
            fn drop(&mut self) {
                self.switch(true);
            }
        }
        let off = Off(self);
        off.switch(false);
        work()
    }

    /// Frees the weights of `network`, which must still be as they were loaded, until something is asked of it again: then
    /// they are read from where the model came from. A network that `load_edited` changed is kept, since no file holds it.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn unload(&self, network: Frozen) -> Result<()> {
        let is_kept = self.origin.edited && network == Frozen::TextEncoder;
        if is_kept || self.unloaded.borrow().contains_key(&network) {
            return Ok(());
        }
        let parameters = || self.parameters_of(network).into_iter().flat_map(Parameters::iter);
        let samples = parameters().map(|(_, parameter)| sample_of(parameter)).collect::<Result<_>>()?;
        self.unloaded.borrow_mut().insert(network, samples);
        for (_, parameter) in parameters() {
            set_data(parameter, &Tensor::empty([0], (parameter.kind(), parameter.device())));
        }
        Ok(())
    }

    /// Reads the weights of `network` again if they were freed.
    ///
    /// # Errors
    /// If the file is gone or has become another.
    pub fn ensure_loaded(&self, network: Frozen) -> Result<()> {
        let unloaded = self.unloaded.borrow();
        let Some(samples) = unloaded.get(&network) else { return Ok(()) };
        let Origin { location, options, .. } = &self.origin;
        let (vae, text_encoders);
        let again = match network {
            Frozen::Vae => {
                vae = load_vae(location, options)?;
                vec![vae.parameters()]
            }
            Frozen::TextEncoder => {
                text_encoders = load_text_encoders(location, options)?;
                text_encoders.iter().map(|encoder| encoder.parameters()).collect()
            }
        };
        let mut read = Vec::new();
        let parameters = self.parameters_of(network).into_iter().zip(again);
        let parameters = parameters.flat_map(|(own, again)| own.iter().map(move |(name, own)| (name, own, again)));
        for ((name, parameter, again), sample) in parameters.zip(samples) {
            match again.get(name) {
                Some(tensor) if sample_of(tensor)? == *sample => read.push((parameter, tensor)),
                _ => return Err(Error::Changed { path: self.path.clone(), name: name.to_string() }),
            }
        }
        // All or nothing: a network of two files would be worse than none.
        read.into_iter().for_each(|(parameter, tensor)| set_data(parameter, tensor));
        drop(unloaded);
        self.unloaded.borrow_mut().remove(&network);
        Ok(())
    }

    fn parameters_of(&self, network: Frozen) -> Vec<&Parameters> {
        match network {
            Frozen::Vae => vec![self.vae.parameters()],
            Frozen::TextEncoder => self.text_encoders.iter().map(|encoder| encoder.network.parameters()).collect(),
        }
    }

    fn vae_kind(&self) -> Kind {
        self.vae.parameters().iter().next().map_or(Kind::Float, |(_, parameter)| parameter.kind())
    }
}

/// By what a tensor is known again: its shape and some of its numbers.
type Sample = (Vec<i64>, Tensor);

fn sample_of(tensor: &Tensor) -> Result<Sample> {
    // Not the tensor's own memory, which is to be free.
    Ok((tensor.size(), sampled(tensor)?.copy()))
}

/// Gives `tensor` other data, which every handle of it sees.
fn set_data(tensor: &Tensor, data: &Tensor) {
    tensor.shallow_clone().set_data(data);
}
