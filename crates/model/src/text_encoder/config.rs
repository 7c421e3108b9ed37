//! The configuration of a text encoder of either kind, and what others ask of it.

use super::{BertConfig, BertModel, ClipTextConfig, ClipTextModel, TextEncoder};
use crate::builder::Builder;
use crate::error::Result;
use sdtrain_state_dict::{TextLayer, is_bert};
use sdtrain_tokenizer::WordTable;
use serde_json::Value;

/// What a text encoder is built from.
#[derive(Debug, Clone, PartialEq)]
pub enum TextEncoderConfig {
    /// CLIP's text tower, with whatever vocabulary.
    Clip(ClipTextConfig),
    /// BERT.
    Bert(BertConfig),
}

impl TextEncoderConfig {
    /// From the parsed `config.json`, by its `architectures` or `model_type`.
    ///
    /// # Errors
    /// For an option that the network does not have, by its name.
    pub fn from_json(json: &Value) -> Result<TextEncoderConfig> {
        Ok(match is_bert(json) {
            true => TextEncoderConfig::Bert(BertConfig::from_json(json)?),
            false => TextEncoderConfig::Clip(ClipTextConfig::from_json(json)?),
        })
    }

    /// As transformers writes it.
    pub fn to_json(&self) -> Value {
        match self {
            TextEncoderConfig::Clip(config) => config.to_json(),
            TextEncoderConfig::Bert(config) => config.to_json(),
        }
    }

    /// The network, with its parameters from the root builder `b`.
    ///
    /// # Errors
    /// Where sizes do not go together, or `b` lacks a parameter.
    pub fn build(&self, b: Builder) -> Result<Box<dyn TextEncoder>> {
        Ok(match self {
            TextEncoderConfig::Clip(config) => Box::new(ClipTextModel::new(b, config)?),
            TextEncoderConfig::Bert(config) => Box::new(BertModel::new(b, config)?),
        })
    }

    /// Rows of the token embedding.
    pub fn vocab_size(&self) -> i64 {
        match self {
            TextEncoderConfig::Clip(config) => config.vocab_size,
            TextEncoderConfig::Bert(config) => config.vocab_size,
        }
    }

    /// What it says of the words that it reads.
    pub(crate) fn word_table(&self) -> WordTable {
        let rows = usize::try_from(self.vocab_size()).unwrap_or(0);
        match self {
            TextEncoderConfig::Clip(config) => {
                WordTable { rows, bos: Some(config.bos_token_id), eos: Some(config.eos_token_id) }
            }
            TextEncoderConfig::Bert(_) => WordTable { rows, bos: None, eos: None },
        }
    }

    /// Size of a state.
    pub fn hidden_size(&self) -> i64 {
        match self {
            TextEncoderConfig::Clip(config) => config.hidden_size,
            TextEncoderConfig::Bert(config) => config.hidden_size,
        }
    }

    /// Number of layers.
    pub fn num_hidden_layers(&self) -> usize {
        let layers = match self {
            TextEncoderConfig::Clip(config) => config.num_hidden_layers,
            TextEncoderConfig::Bert(config) => config.num_hidden_layers,
        };
        layers as usize
    }

    /// Longest sequence.
    pub fn max_position_embeddings(&self) -> usize {
        let positions = match self {
            TextEncoderConfig::Clip(config) => config.max_position_embeddings,
            TextEncoderConfig::Bert(config) => config.max_position_embeddings,
        };
        positions as usize
    }

    /// Size of the vector that a row of ids becomes, of a network with a projection.
    pub fn projection_dim(&self) -> Option<i64> {
        match self {
            TextEncoderConfig::Clip(config) => config.has_projection.then_some(config.projection_dim),
            TextEncoderConfig::Bert(_) => None,
        }
    }

    /// Whether `name`, of a parameter or a layer, lies past the states of `layer`, and nothing else comes of it.
    pub fn is_past(&self, name: &str, layer: TextLayer) -> bool {
        let used = (self.num_hidden_layers() + 1).saturating_sub(layer.from_end);
        let number = |rest: &str| rest.split('.').next()?.parse::<usize>().ok();
        let is_later = |rest: &str| number(rest).is_some_and(|number| number >= used);
        match self {
            TextEncoderConfig::Clip(config) if config.has_projection => false,
            TextEncoderConfig::Clip(_) => name.strip_prefix("text_model.").is_some_and(|inside| {
                inside.strip_prefix("encoder.layers.").is_some_and(is_later)
                    || (inside.starts_with("final_layer_norm.") && !layer.final_norm)
            }),
            TextEncoderConfig::Bert(_) => {
                name.strip_prefix("encoder.layer.").is_some_and(is_later) || name.starts_with("pooler.")
            }
        }
    }
}
