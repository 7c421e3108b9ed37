//! Everything one forward pass needs, on the device.

use sdtrain_model::{PromptReading, StableDiffusion, TextStates, TokenizedPrompts};
use tch::Tensor;

/// What `prepare` hands to `forward_backward`.
#[derive(Debug)]
pub enum StepInputs {
    /// For training a denoiser.
    Denoising(DenoisingInputs),
    /// For training the autoencoder.
    Autoencoding(AutoencodingInputs),
}

impl StepInputs {
    /// How many examples the batch has.
    pub fn examples(&self) -> usize {
        let of_all = match self {
            StepInputs::Denoising(inputs) => &inputs.latents,
            StepInputs::Autoencoding(inputs) => &inputs.pixels,
        };
        of_all.size()[0] as usize
    }
}

/// Text as the denoiser's forward pass takes it.
#[derive(Debug)]
pub enum Prompts {
    /// States of frozen text encoders.
    Encoded(TextStates),
    /// For text encoders that are trained and therefore run inside the step.
    Tokenized(TokenizedPrompts),
}

impl Prompts {
    /// What the denoiser is told of the text. Panics as tch does.
    pub fn states(&self, model: &StableDiffusion, reading: &PromptReading, gradient_checkpointing: bool) -> TextStates {
        match self {
            Prompts::Encoded(states) => states.shallow_clone(),
            Prompts::Tokenized(prompts) => model.text_states(prompts, reading, gradient_checkpointing),
        }
    }
}

/// One batch for a denoiser.
#[derive(Debug)]
pub struct DenoisingInputs {
    /// Scaled latents, f32 `[batch, channels, height, width]`.
    pub latents: Tensor,
    /// What is added to them and what the target is made of, after every noise option; same shape.
    pub noise: Tensor,
    /// What is added to them in its place, where the input is perturbed and the target is not; same shape.
    pub input_noise: Option<Tensor>,
    /// Integers `[batch]`.
    pub timesteps: Tensor,
    /// The text.
    pub prompts: Prompts,
    /// Where the images come from, f32 `[batch, 6]`, for a denoiser that is told.
    pub time_ids: Option<Tensor>,
    /// What each example's loss is multiplied by, f32 `[batch]`.
    pub loss_weights: Tensor,
    /// How much each place counts, 0 to 1, f32 `[batch, 1, height, width]`; absent where no image has a mask.
    pub mask: Option<Tensor>,
    /// What a denoiser for inpainting is shown behind the noisy latents, f32 `[batch, 5, height, width]`: the mask, and the latents of the
    /// masked image.
    pub mask_channels: Option<Tensor>,
    /// Where the base's prediction is to be kept.
    pub prior: Option<PriorInputs>,
}

/// The same latents, noise and timesteps with the prompt of the class, to which the base's answer is the target.
#[derive(Debug)]
pub struct PriorInputs {
    /// The text for what is trained.
    pub prompts: Prompts,
    /// The text for the base: states of its own text encoders.
    pub base_states: TextStates,
    /// What each example's distance from the base is multiplied by, f32 `[batch]`.
    pub loss_weights: Tensor,
}

/// One batch for the autoencoder.
#[derive(Debug)]
pub struct AutoencodingInputs {
    /// f32 `[batch, 3, height, width]` in -1…1.
    pub pixels: Tensor,
    /// For the draw of the latents, f32 `[batch, latent_channels, height/f, width/f]`.
    pub noise: Tensor,
}
