//! What a denoiser is told of a picture besides its noisy latents and the timestep: the text, and with some UNets its sizes.

use crate::stable_diffusion::StableDiffusion;
use tch::{Kind, Tensor};

/// How beautiful SDXL's refiner is told that a picture is, of 10: diffusers' `aesthetic_score`.
pub const AESTHETIC_SCORE: f32 = 6.0;
/// The same of what no picture should be like: diffusers' `negative_aesthetic_score`.
pub const NEGATIVE_AESTHETIC_SCORE: f32 = 2.5;

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

    /// diffusers' `add_time_ids`: each pair with the height, or the top, first; the last pair, or the score where there are five numbers.
    fn time_ids(self, aesthetic_score: f32, count: usize) -> Vec<f32> {
        let [original, crop, target] = [self.original, self.crop_offset, self.target];
        let mut ids = [original.1, original.0, crop.1, crop.0, target.1, target.0].map(|pixels| pixels as f32).to_vec();
        if count < ids.len() {
            ids.splice(count - 1.., [aesthetic_score]);
        }
        ids
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
    /// [`PictureSizes`] as diffusers' `add_time_ids`, f32 `[batch, 6]`, or `[batch, 5]` with an aesthetic score.
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
    /// Sizes as the UNet takes them, f32 `[pictures, 6]` on the model's device, or `[pictures, 5]` with a score of [`AESTHETIC_SCORE`]; none
    /// where it does not ask for them.
    pub fn time_ids(&self, sizes: &[PictureSizes]) -> crate::Result<Option<Tensor>> {
        self.time_ids_with(sizes, AESTHETIC_SCORE)
    }

    /// [`StableDiffusion::time_ids`] for the states of negative prompts: with [`NEGATIVE_AESTHETIC_SCORE`].
    pub fn negative_time_ids(&self, sizes: &[PictureSizes]) -> crate::Result<Option<Tensor>> {
        self.time_ids_with(sizes, NEGATIVE_AESTHETIC_SCORE)
    }

    fn time_ids_with(&self, sizes: &[PictureSizes], aesthetic_score: f32) -> crate::Result<Option<Tensor>> {
        let pooled = self.pooled_width().unwrap_or_default() as i64;
        let Some(count) = self.unet.config().time_ids(pooled) else { return Ok(None) };
        let ids: Vec<f32> = sizes.iter().flat_map(|sizes| sizes.time_ids(aesthetic_score, count)).collect();
        let ids = Tensor::f_from_slice(&ids)?.f_reshape([sizes.len() as i64, count as i64])?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_go_in_with_the_height_and_the_top_first() {
        let sizes = PictureSizes { original: (1200, 900), crop_offset: (30, 7), target: (1024, 768) };
        assert_eq!(sizes.time_ids(AESTHETIC_SCORE, 6), [900.0, 1200.0, 7.0, 30.0, 768.0, 1024.0]);
        // The refiner is told how beautiful the picture is, in place of what is seen of it.
        assert_eq!(sizes.time_ids(AESTHETIC_SCORE, 5), [900.0, 1200.0, 7.0, 30.0, 6.0]);
        assert_eq!(sizes.time_ids(NEGATIVE_AESTHETIC_SCORE, 5), [900.0, 1200.0, 7.0, 30.0, 2.5]);
        assert_eq!(PictureSizes::whole(640, 512).time_ids(0.0, 6), [512.0, 640.0, 0.0, 0.0, 512.0, 640.0]);
    }
}
