//! The text encoder under SD1's names in a single file, as its tensors show it: CLIP's with whatever vocabulary, or BERT.

use serde_json::{Value as Json, json};

use crate::maps::{bert, clip};
use crate::reader::Reader;
use crate::released::WORDS_OF_CLIP;

const CLIP_WORDS: &str = "text_model.embeddings.token_embedding.weight";
const CLIP_POSITIONS: &str = "text_model.embeddings.position_embedding.weight";

/// What there is of it. Sizes that no tensor shows are those that transformers assumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoundText {
    /// CLIP's network. Its other sizes are SD1's, so that a file that lacks a layer is still seen to lack it.
    Clip { words: usize, positions: Option<usize> },
    /// BERT, of which no release is the usual one.
    Bert {
        words: usize,
        width: usize,
        positions: Option<usize>,
        segments: Option<usize>,
        inner: Option<usize>,
        layers: usize,
    },
}

impl FoundText {
    /// That of `file`; none where it has no table of words under SD1's names.
    pub fn of(file: &dyn Reader) -> Option<FoundText> {
        let canonical = |name: &str| bert::canonical_name(name).or_else(|| clip::canonical_name(name));
        let inside: Vec<(String, &[usize])> = file
            .names()
            .into_iter()
            .filter(|name| name.starts_with(clip::LDM_PREFIX))
            .filter_map(|name| Some((canonical(name)?, file.info(name)?.shape.as_slice())))
            .collect();
        let shape = |wanted: &str| inside.iter().find(|(name, _)| name == wanted).map(|(_, shape)| *shape);
        let rows = |table: &str| shape(table)?.first().copied();
        if let Some(&[words, width]) = shape(bert::FIRST) {
            let layer = |name: &str| name.strip_prefix("encoder.layer.")?.split('.').next()?.parse::<usize>().ok();
            let last = inside.iter().filter_map(|(name, _)| layer(name)).max();
            return Some(FoundText::Bert {
                words,
                width,
                positions: rows("embeddings.position_embeddings.weight"),
                segments: rows("embeddings.token_type_embeddings.weight"),
                inner: rows("encoder.layer.0.intermediate.dense.weight"),
                layers: last.map_or(0, |last| last.saturating_add(1)),
            });
        }
        Some(FoundText::Clip { words: rows(CLIP_WORDS)?, positions: rows(CLIP_POSITIONS) })
    }

    /// What it is, where it is not that of SD1's release.
    pub fn note(self) -> Option<String> {
        match self {
            FoundText::Clip { words: WORDS_OF_CLIP, .. } => None,
            FoundText::Clip { words, .. } => Some(format!("text encoder: CLIP, {words} words")),
            FoundText::Bert { words, .. } => Some(format!("text encoder: BERT, {words} words")),
        }
    }

    /// Makes `config`, that of SD1's release, the configuration of this one.
    pub fn describe(self, config: &mut Json) {
        match self {
            FoundText::Clip { words, positions } => {
                config["vocab_size"] = words.into();
                if let Some(positions) = positions {
                    config["max_position_embeddings"] = positions.into();
                }
            }
            FoundText::Bert { words, width, positions, segments, inner, layers } => {
                *config = json!({
                    "architectures": ["BertModel"],
                    "attention_probs_dropout_prob": 0.1,
                    "hidden_act": "gelu",
                    "hidden_dropout_prob": 0.1,
                    "hidden_size": width,
                    "intermediate_size": inner.unwrap_or(3072),
                    "layer_norm_eps": 1e-12,
                    "max_position_embeddings": positions.unwrap_or(512),
                    "model_type": "bert",
                    // No tensor shows them; the heads of every released BERT have 64 numbers.
                    "num_attention_heads": (width / 64).max(1),
                    "num_hidden_layers": layers,
                    "pad_token_id": 0,
                    "type_vocab_size": segments.unwrap_or(2),
                    "vocab_size": words,
                });
            }
        }
    }
}
