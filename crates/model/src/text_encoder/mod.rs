//! Token ids to the states that the UNet attends to, by whichever network a model has for it.

mod bert;
mod clip;
mod config;

use crate::error::{Error, Result};
use crate::layers::Embedding;
use crate::parameters::Parameters;
use sdtrain_state_dict::TextLayer;
use sdtrain_torch::{gradient_checkpoint, or_panic};
use std::fmt::Debug;
use std::rc::Rc;
use tch::{Kind, Tensor};

pub use bert::{BertConfig, BertModel};
pub use clip::{ClipTextConfig, ClipTextModel};
pub use config::TextEncoderConfig;

/// A network that makes states of tokens.
pub trait TextEncoder: Debug {
    /// The configuration it was built from.
    fn config(&self) -> &TextEncoderConfig;

    /// Its parameters and layers.
    fn parameters(&self) -> &Parameters;

    /// What looks tokens up.
    fn embedding(&self) -> &Embedding;

    /// States after the embedding and after every layer: `num_hidden_layers + 1` tensors `[batch, tokens, hidden_size]`.
    /// ids: `[batch, tokens]`; `kind` is the compute dtype.
    fn hidden_states(&self, ids: &Tensor, kind: Kind, gradient_checkpointing: bool) -> Vec<Tensor>;

    /// What the UNet attends to, `[batch, tokens, hidden_size]`, and of a network with a projection each row of ids as one vector,
    /// `[batch, projection_dim]`: the state at its first `end` mark, in the last layer and normed, projected.
    fn encode(
        &self,
        ids: &Tensor,
        end: i64,
        kind: Kind,
        layer: TextLayer,
        gradient_checkpointing: bool,
    ) -> (Tensor, Option<Tensor>);

    /// The token embedding, `[vocab_size, hidden_size]`.
    fn token_embedding(&self) -> &Tensor {
        self.embedding().weight()
    }

    /// Looks tokens from `first` on up in `vectors` (each `[n, hidden_size]`, one behind the other) instead of the token
    /// embedding; without vectors, none.
    fn set_learned_rows(&self, first: i64, vectors: Vec<Tensor>) {
        self.embedding().set_learned_rows(first, vectors);
    }
}

/// That states of `size` divide into so many heads.
fn check_heads(size: i64, heads: i64) -> Result<()> {
    match heads >= 1 && size % heads == 0 {
        true => Ok(()),
        false => {
            Err(Error::Config(format!("text_encoder/config.json: size {size} does not divide into {heads} heads")))
        }
    }
}

/// `embedded` and what each of the layers makes of what the one before it made.
fn through_layers<Layer: 'static>(
    embedded: Tensor,
    layers: &[Rc<Layer>],
    forward: fn(&Layer, &Tensor) -> Tensor,
    gradient_checkpointing: bool,
) -> Vec<Tensor> {
    let mut states = vec![embedded];
    for layer in layers {
        let last = &states[states.len() - 1];
        let next = if gradient_checkpointing {
            let layer = layer.clone();
            or_panic(gradient_checkpoint(&[last], move |inputs| forward(&layer, &inputs[0])))
        } else {
            forward(layer, last)
        };
        states.push(next);
    }
    states
}

/// The states `from_end` layers from the end, 1 is the last.
fn from_end(states: &[Tensor], from_end: usize) -> &Tensor {
    &states[states.len() - from_end.clamp(1, states.len())]
}
