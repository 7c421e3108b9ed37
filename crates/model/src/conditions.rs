//! What a denoiser is told of a picture besides its noisy latents and the timestep: the text, and with some UNets its sizes.

use crate::stable_diffusion::StableDiffusion;
use crate::unet::SIZE_IDS;
use tch::{Kind, Tensor};

/// What text encoders make of prompts.
#[derive(Debug, PartialEq)]
pub struct TextStates {
    /// What the UNet attends to: `[prompts, tokens, width]`, of several text encoders one behind the other in the last dimension.
    pub hidden_states: Tensor,
    /// Each prompt as one vector, `[prompts, projection_dim]`, of a text encoder that has a projection.
    pub pooled: Option<Tensor>,
}

impl TextStates {
    /// These tensors, each through `change`.
    pub fn map<E>(&self, mut change: impl FnMut(&Tensor) -> Result<Tensor, E>) -> Result<TextStates, E> {
        let hidden_states = change(&self.hidden_states)?;
        Ok(TextStates { hidden_states, pooled: self.pooled.as_ref().map(change).transpose()? })
    }

    /// Handles of the same tensors.
    pub fn shallow_clone(&self) -> TextStates {
        let pooled = self.pooled.as_ref().map(Tensor::shallow_clone);
        TextStates { hidden_states: self.hidden_states.shallow_clone(), pooled }
    }
}

/// Where a picture comes from, in pixels as `(width, height)`: what SDXL is told of it (Podell et al. 2023, arXiv:2307.01952, section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureSizes {
    /// Of the file.
    pub original: (usize, usize),
    /// `(left, top)` of the crop in the scaled picture.
    pub crop_offset: (usize, usize),
    /// Of what is seen.
    pub target: (usize, usize),
}

impl PictureSizes {
    /// Those of a picture that was never scaled or cut.
    pub fn whole(width: usize, height: usize) -> PictureSizes {
        PictureSizes { original: (width, height), crop_offset: (0, 0), target: (width, height) }
    }

    /// diffusers' `add_time_ids`: each pair with the height, or the top, first.
    fn time_ids(self) -> [f32; SIZE_IDS] {
        let [original, crop, target] = [self.original, self.crop_offset, self.target];
        [original.1, original.0, crop.1, crop.0, target.1, target.0].map(|pixels| pixels as f32)
    }
}

/// Everything that a denoiser is told of pictures.
#[derive(Debug)]
pub struct Conditions {
    /// What the attentions look at: `[batch, tokens, cross_attention_dim]`.
    pub encoder_hidden_states: Tensor,
    /// What is added to the timestep's embedding, where the UNet asks for it.
    pub added: Option<AddedConditions>,
}

/// Text and sizes for a UNet with `addition_embed_type = "text_time"`.
#[derive(Debug)]
pub struct AddedConditions {
    /// Each prompt as one vector, `[batch, projection_dim]`.
    pub text_embeds: Tensor,
    /// [`PictureSizes`] as diffusers' `add_time_ids`, f32 `[batch, 6]`.
    pub time_ids: Tensor,
}

impl From<&Tensor> for Conditions {
    fn from(encoder_hidden_states: &Tensor) -> Conditions {
        Conditions { encoder_hidden_states: encoder_hidden_states.shallow_clone(), added: None }
    }
}

impl From<&Conditions> for Conditions {
    fn from(same: &Conditions) -> Conditions {
        let added = same.added.as_ref().map(|added| AddedConditions {
            text_embeds: added.text_embeds.shallow_clone(),
            time_ids: added.time_ids.shallow_clone(),
        });
        Conditions { encoder_hidden_states: same.encoder_hidden_states.shallow_clone(), added }
    }
}

impl StableDiffusion {
    /// Sizes as the UNet takes them, f32 `[pictures, 6]` on the model's device; none where it does not ask for them.
    pub fn time_ids(&self, sizes: &[PictureSizes]) -> crate::Result<Option<Tensor>> {
        if !self.unet.config().adds_text_and_sizes() {
            return Ok(None);
        }
        let ids: Vec<f32> = sizes.iter().flat_map(|sizes| sizes.time_ids()).collect();
        let ids = Tensor::f_from_slice(&ids)?.f_reshape([sizes.len() as i64, SIZE_IDS as i64])?;
        Ok(Some(ids.f_to_kind(Kind::Float)?.f_to_device(self.device)?))
    }

    /// `text` with [`StableDiffusion::time_ids`] as the UNet takes both.
    pub fn conditions(&self, text: &TextStates, time_ids: Option<&Tensor>) -> Conditions {
        let added = time_ids.zip(text.pooled.as_ref()).map(|(time_ids, pooled)| AddedConditions {
            text_embeds: pooled.shallow_clone(),
            time_ids: time_ids.shallow_clone(),
        });
        Conditions { encoder_hidden_states: text.hidden_states.shallow_clone(), added }
    }
}
