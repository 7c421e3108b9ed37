//! Prompts on their way to the UNet: how they are read, their token ids, and the states that come of them.

use crate::conditions::TextStates;
use crate::error::Result;
use crate::stable_diffusion::{Frozen, StableDiffusion};
use sdtrain_state_dict::TextLayer;
use sdtrain_tokenizer::{PromptTokenizer, Tokenizer};
use tch::Tensor;

/// How prompts are read: in training, validation and pictures alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PromptReading {
    /// Layers from the end of the text encoders, 1 is the last; without, those that the model's UNet was trained with.
    pub clip_skip: Option<usize>,
    /// Tokens that are read, without the marks round them: a multiple of what the text encoder reads at once (75 for CLIP).
    /// One window without.
    pub max_token_length: Option<usize>,
    /// Whether `(word:1.2)` in a prompt is a weight and not text.
    pub weights: bool,
}

/// Counts the ways of making states of tokens. It goes up with every change that gives any tokens other states under the same
/// weights, so that nothing made in the old way is used any more.
pub const STATES_VERSION: u32 = 1;

/// One prompt as one text encoder reads it, on the host: all that decides its states under it.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptTokens {
    /// Those of all windows, each with its marks and padding.
    pub ids: Vec<i64>,
    /// What the states are multiplied by, `windows · (window − marks) + marks` of them; none where prompts have no weights.
    pub weights: Option<Vec<f32>>,
}

/// Prompts as the text encoders take them, in their order.
#[derive(Debug)]
pub struct TokenizedPrompts(pub Vec<EncoderTokens>);

/// Prompts as one text encoder takes them.
#[derive(Debug)]
pub struct EncoderTokens {
    /// `[prompts, windows, window]`, integers: each window with its marks and padding.
    pub ids: Tensor,
    /// What the states are multiplied by, f32 `[prompts, windows · (window − marks) + marks]`; none where prompts have no weights.
    pub weights: Option<Tensor>,
}

impl StableDiffusion {
    /// One prompt as ids for each text encoder, and weights where they are read, on the host.
    pub fn prompt_tokens(&self, prompt: &str, reading: &PromptReading) -> Result<Vec<PromptTokens>> {
        self.prompt_tokenizers().iter().map(|tokenizer| tokens_of(tokenizer, prompt, reading)).collect()
    }

    /// Tokens of a window, its marks included.
    pub fn text_window(&self) -> usize {
        self.tokenizer().window()
    }

    /// `[tokens, width]` of the states of one prompt.
    pub fn text_states_shape(&self, reading: &PromptReading) -> Result<[usize; 2]> {
        let (windows, window) = (self.tokenizer().windows_of(reading.max_token_length)?, self.text_window());
        let marks = self.tokenizer().marks();
        let width: i64 = self.text_encoders.iter().map(|encoder| encoder.network.config().hidden_size()).sum();
        Ok([windows * (window - marks) + marks, width as usize])
    }

    /// Length of the vector that a prompt becomes beside its states, where it becomes one.
    pub fn pooled_width(&self) -> Option<usize> {
        let configs = self.text_encoders.iter().map(|encoder| encoder.network.config());
        configs.rev().find_map(|config| config.projection_dim()).map(|length| length as usize)
    }

    /// Layers of the text encoder that has the fewest.
    pub fn text_layers(&self) -> usize {
        let layers = self.text_encoders.iter().map(|encoder| encoder.network.config().num_hidden_layers());
        layers.min().unwrap_or_default()
    }

    /// What of the text encoders the UNet attends to.
    pub fn text_layer(&self, reading: &PromptReading) -> TextLayer {
        let own = self.family.text_layer();
        TextLayer { from_end: reading.clip_skip.unwrap_or(own.from_end), ..own }
    }

    /// Whether `name` (of a parameter or a layer, behind its network's) lies past the states that the UNet attends to, in a text encoder
    /// that makes nothing else: nothing depends on it. Of SDXL's first text encoder that is the last layer.
    pub fn is_never_asked(&self, name: &str, reading: &PromptReading) -> bool {
        let layer = self.text_layer(reading);
        self.text_encoders.iter().any(|encoder| {
            let inside = name.strip_prefix(encoder.name).and_then(|rest| rest.strip_prefix('.'));
            inside.is_some_and(|inside| encoder.network.config().is_past(inside, layer))
        })
    }

    /// `prompts` as ids, and weights where they are read, on the model's device.
    pub fn tokenize(&self, prompts: &[String], reading: &PromptReading) -> Result<TokenizedPrompts> {
        let of_encoder = |tokenizer: &PromptTokenizer| -> Result<EncoderTokens> {
            let windows = tokenizer.windows_of(reading.max_token_length)?;
            let (mut ids, mut weights) = (Vec::new(), Vec::new());
            for prompt in prompts {
                let tokens = tokens_of(tokenizer, prompt, reading)?;
                ids.extend(tokens.ids);
                weights.extend(tokens.weights.into_iter().flatten());
            }
            let shape = [prompts.len() as i64, windows as i64, tokenizer.window() as i64];
            let ids = Tensor::f_from_slice(&ids)?.f_reshape(shape)?.f_to_device(self.device)?;
            let on_device = |weights: &[f32]| -> Result<Tensor> {
                Ok(Tensor::f_from_slice::<f32>(weights)?.f_reshape([shape[0], -1])?.f_to_device(self.device)?)
            };
            Ok(EncoderTokens { ids, weights: reading.weights.then(|| on_device(&weights)).transpose()? })
        };
        let tokenizers = self.prompt_tokenizers();
        Ok(TokenizedPrompts(tokenizers.iter().map(|tokenizer| of_encoder(tokenizer)).collect::<Result<_>>()?))
    }

    /// What the UNet is told of `prompts`, in the compute dtype, `windows · (window − marks) + marks` tokens of each. Each window goes
    /// through the text encoders by itself; the start mark of the first, where there is one, and the end mark of the last stay, and the weights
    /// multiply the states, without a correction of their mean, as in kohya's scripts. The vector of a prompt is that of its first
    /// window. Panics as tch does where shapes do not fit.
    pub fn text_states(
        &self,
        prompts: &TokenizedPrompts,
        reading: &PromptReading,
        gradient_checkpointing: bool,
    ) -> TextStates {
        let layer = self.text_layer(reading);
        let (mut all, mut pooled) = (Vec::new(), None);
        for (encoder, EncoderTokens { ids, weights }) in self.text_encoders.iter().zip(&prompts.0) {
            let (count, windows, window) = ids.size3().expect("ids are [prompts, windows, window]");
            let (end, rows) = (encoder.tokenizer.eos(), ids.view([count * windows, window]));
            let (states, vectors) = encoder.network.encode(&rows, end, self.compute, layer, gradient_checkpointing);
            let start = encoder.tokenizer.bos().map_or(0, |_| 1);
            let states = if windows == 1 { states } else { joined(&states, windows, start) };
            all.push(match weights {
                None => states,
                Some(weights) => (&states * weights.unsqueeze(-1)).to_kind(self.compute),
            });
            if let Some(vectors) = vectors {
                pooled = Some(vectors.view([count, windows, -1]).select(1, 0));
            }
        }
        let hidden_states = match &all[..] {
            [only] => only.shallow_clone(),
            all => Tensor::cat(all, -1),
        };
        TextStates { hidden_states, pooled }
    }

    /// [`StableDiffusion::text_states`] of `prompts`, without gradients.
    pub fn encode_prompts(&self, prompts: &[String], reading: &PromptReading) -> Result<TextStates> {
        self.ensure_loaded(Frozen::TextEncoder)?;
        let tokenized = self.tokenize(prompts, reading)?;
        Ok(sdtrain_torch::catch(|| tch::no_grad(|| self.text_states(&tokenized, reading, false)))?)
    }
}

/// One prompt as `tokenizer` reads it.
fn tokens_of(tokenizer: &PromptTokenizer, prompt: &str, reading: &PromptReading) -> Result<PromptTokens> {
    let windows = tokenizer.windows_of(reading.max_token_length)?;
    if !reading.weights {
        let ids = tokenizer.encode_chunks(prompt, windows).into_iter().flatten().collect();
        return Ok(PromptTokens { ids, weights: None });
    }
    let start = tokenizer.marks() - 1;
    let (mut ids, mut weights) = (Vec::new(), vec![1.0; start]);
    for chunk in tokenizer.encode_weighted(prompt, windows) {
        weights.extend(&chunk.weights[start..chunk.weights.len() - 1]);
        ids.extend(chunk.ids);
    }
    weights.push(1.0);
    Ok(PromptTokens { ids, weights: Some(weights) })
}

/// `[prompts · windows, window, hidden]` as one row for each prompt: the `start` first marks, what each window holds, the last mark.
fn joined(states: &Tensor, windows: i64, start: i64) -> Tensor {
    let (_, window, hidden) = states.size3().expect("states are [rows, tokens, hidden]");
    let states = states.view([-1, windows, window, hidden]);
    let first = states.select(1, 0).narrow(1, 0, start);
    let last = states.select(1, windows - 1).narrow(1, window - 1, 1);
    let inside = window - start - 1;
    let middle = states.narrow(2, start, inside).reshape([-1, windows * inside, hidden]);
    Tensor::cat(&[first, middle, last], 1)
}
