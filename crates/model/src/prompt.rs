//! Prompts on their way to the UNet: how they are read, their token ids, and the states that come of them.

use crate::error::Result;
use crate::stable_diffusion::{Frozen, StableDiffusion};
use sdtrain_tokenizer::Tokenizer;
use tch::Tensor;

/// How prompts are read: in training, validation and pictures alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptReading {
    /// Layers from the end of the text encoder, 1 is the last.
    pub clip_skip: usize,
    /// Tokens that are read, without the marks round them: a multiple of what the text encoder reads at once (75 for CLIP).
    /// One window without.
    pub max_token_length: Option<usize>,
    /// Whether `(word:1.2)` in a prompt is a weight and not text.
    pub weights: bool,
}

impl Default for PromptReading {
    fn default() -> Self {
        PromptReading { clip_skip: 1, max_token_length: None, weights: false }
    }
}

/// Counts the ways of making states of tokens. It goes up with every change that gives any tokens other states under the same
/// weights, so that nothing made in the old way is used any more.
pub const STATES_VERSION: u32 = 1;

/// One prompt as the text encoder reads it, on the host: all that decides its states under one text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptTokens {
    /// Those of all windows, each with its marks and padding.
    pub ids: Vec<i64>,
    /// What the states are multiplied by, `windows · (window − 2) + 2` of them; none where prompts have no weights.
    pub weights: Option<Vec<f32>>,
}

/// Prompts as the text encoder takes them.
#[derive(Debug)]
pub struct TokenizedPrompts {
    /// `[prompts, windows, window]`, integers: each window with its marks and padding.
    pub ids: Tensor,
    /// What the states are multiplied by, f32 `[prompts, windows · (window − 2) + 2]`; none where prompts have no weights.
    pub weights: Option<Tensor>,
}

impl StableDiffusion {
    /// One prompt as ids, and weights where they are read, on the host.
    pub fn prompt_tokens(&self, prompt: &str, reading: &PromptReading) -> Result<PromptTokens> {
        let tokenizer = self.prompt_tokenizer();
        let windows = tokenizer.windows_of(reading.max_token_length)?;
        if !reading.weights {
            let ids = tokenizer.encode_chunks(prompt, windows).into_iter().flatten().collect();
            return Ok(PromptTokens { ids, weights: None });
        }
        let (mut ids, mut weights) = (Vec::new(), vec![1.0]);
        for chunk in tokenizer.encode_weighted(prompt, windows) {
            weights.extend(&chunk.weights[1..chunk.weights.len() - 1]);
            ids.extend(chunk.ids);
        }
        weights.push(1.0);
        Ok(PromptTokens { ids, weights: Some(weights) })
    }

    /// Tokens of a window, its marks included.
    pub fn text_window(&self) -> usize {
        self.tokenizer.window()
    }

    /// `[tokens, hidden_size]` of the states of one prompt.
    pub fn text_states_shape(&self, reading: &PromptReading) -> Result<[usize; 2]> {
        let (windows, window) = (self.tokenizer.windows_of(reading.max_token_length)?, self.tokenizer.window());
        Ok([windows * (window - 2) + 2, self.text_encoder.config().hidden_size as usize])
    }

    /// `prompts` as ids, and weights where they are read, on the model's device.
    pub fn tokenize(&self, prompts: &[String], reading: &PromptReading) -> Result<TokenizedPrompts> {
        let tokenizer = self.prompt_tokenizer();
        let windows = tokenizer.windows_of(reading.max_token_length)?;
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for prompt in prompts {
            let tokens = self.prompt_tokens(prompt, reading)?;
            ids.extend(tokens.ids);
            weights.extend(tokens.weights.into_iter().flatten());
        }
        let shape = [prompts.len() as i64, windows as i64, tokenizer.window() as i64];
        let ids = Tensor::f_from_slice(&ids)?.f_reshape(shape)?.f_to_device(self.device)?;
        let weights = match reading.weights {
            true => Some(Tensor::f_from_slice::<f32>(&weights)?.f_reshape([shape[0], -1])?.f_to_device(self.device)?),
            false => None,
        };
        Ok(TokenizedPrompts { ids, weights })
    }

    /// What the UNet attends to: `[prompts, windows · (window − 2) + 2, hidden_size]` in the compute dtype. Each window goes
    /// through the text encoder by itself; the start mark of the first and the end mark of the last stay, and the weights
    /// multiply the states, without a correction of their mean, as in kohya's scripts. Panics as tch does where shapes do not fit.
    pub fn text_states(&self, prompts: &TokenizedPrompts, clip_skip: usize, gradient_checkpointing: bool) -> Tensor {
        let (count, windows, window) = prompts.ids.size3().expect("ids are [prompts, windows, window]");
        let ids = prompts.ids.view([count * windows, window]);
        let states = self.text_encoder.forward(&ids, self.compute, clip_skip, gradient_checkpointing);
        let states = if windows == 1 { states } else { joined(&states, windows) };
        match &prompts.weights {
            None => states,
            Some(weights) => (&states * weights.unsqueeze(-1)).to_kind(self.compute),
        }
    }

    /// [`StableDiffusion::text_states`] of `prompts`, without gradients.
    pub fn encode_prompts(&self, prompts: &[String], reading: &PromptReading) -> Result<Tensor> {
        self.ensure_loaded(Frozen::TextEncoder)?;
        let tokenized = self.tokenize(prompts, reading)?;
        Ok(sdtrain_torch::catch(|| tch::no_grad(|| self.text_states(&tokenized, reading.clip_skip, false)))?)
    }
}

/// `[prompts · windows, window, hidden]` as one row for each prompt: the first mark, what each window holds, the last mark.
fn joined(states: &Tensor, windows: i64) -> Tensor {
    let (_, window, hidden) = states.size3().expect("states are [rows, tokens, hidden]");
    let states = states.view([-1, windows, window, hidden]);
    let first = states.select(1, 0).narrow(1, 0, 1);
    let last = states.select(1, windows - 1).narrow(1, window - 1, 1);
    let middle = states.narrow(2, 1, window - 2).reshape([-1, windows * (window - 2), hidden]);
    Tensor::cat(&[first, middle, last], 1)
}
