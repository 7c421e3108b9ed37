//! BERT as a text encoder (transformers: `BertModel`), as Taiyi's Chinese Stable Diffusion has it (Devlin et al. 2018,
//! arXiv:1810.04805): norms behind each sum, attention in both directions, every token of a window attended to.

use super::{TextEncoder, TextEncoderConfig, check_heads, from_end, through_layers};
use crate::builder::Builder;
use crate::config_json::parse;
use crate::error::{Error, Result};
use crate::layers::{Embedding, LayerNorm, Linear, merge_heads, scaled_dot_product_attention, split_heads};
use crate::parameters::Parameters;
use sdtrain_state_dict::TextLayer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// The keys of `BertConfig` that this network follows, with transformers' defaults. There is no dropout in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Rows of the token embedding.
    pub vocab_size: i64,
    /// Size of a state.
    pub hidden_size: i64,
    /// Size inside the feed-forward network.
    pub intermediate_size: i64,
    /// Number of layers.
    pub num_hidden_layers: i64,
    /// Number of heads.
    pub num_attention_heads: i64,
    /// Longest sequence.
    pub max_position_embeddings: i64,
    /// Rows of the embedding of segments, of which the first is used.
    pub type_vocab_size: i64,
    /// `gelu`, by the error function.
    pub hidden_act: String,
    /// Epsilon of every norm.
    pub layer_norm_eps: f64,
    /// Padding, whose row of the embedding is not trained.
    pub pad_token_id: Option<i64>,
    /// Dropout of states in other programs' training.
    pub hidden_dropout_prob: f64,
    /// Dropout of attention in other programs' training.
    pub attention_probs_dropout_prob: f64,
}

impl Default for BertConfig {
    fn default() -> BertConfig {
        BertConfig {
            vocab_size: 30522,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-12,
            pad_token_id: Some(0),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
        }
    }
}

impl BertConfig {
    /// From the parsed `config.json`.
    ///
    /// # Errors
    /// For an option that this network does not have, by its name.
    pub fn from_json(json: &Value) -> Result<BertConfig> {
        let plain: &[(&str, &[Value])] = &[
            ("hidden_act", &[json!("gelu")]),
            ("position_embedding_type", &[json!("absolute")]),
            ("is_decoder", &[json!(false)]),
            ("add_cross_attention", &[json!(false)]),
        ];
        let config: BertConfig = parse("text_encoder/config.json", json, plain)?;
        match config.pad_token_id {
            Some(pad) if !(0..config.vocab_size).contains(&pad) => Err(Error::Config(format!(
                "text_encoder/config.json: `pad_token_id` = {pad} is no row of the embedding"
            ))),
            _ => Ok(config),
        }
    }

    /// As transformers writes it.
    pub fn to_json(&self) -> Value {
        let mut json = serde_json::to_value(self).expect("plain data is JSON");
        json["architectures"] = json!(["BertModel"]);
        json["model_type"] = json!("bert");
        json
    }
}

/// Post-norm transformer with attention in both directions.
#[derive(Debug)]
pub struct BertModel {
    config: TextEncoderConfig,
    parameters: Parameters,
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    embeddings_norm: LayerNorm,
    layers: Vec<Rc<BertLayer>>,
}

impl BertModel {
    /// Builds the network of `config` from the root builder `b`, with the pooler that its files hold and the UNet never asks.
    ///
    /// # Errors
    /// Where sizes do not go together, or `b` lacks a parameter.
    pub fn new(b: Builder, config: &BertConfig) -> Result<BertModel> {
        let size = config.hidden_size;
        check_heads(size, config.num_attention_heads)?;
        let embeddings = b.at("embeddings");
        // No gradient reaches the row of the padding, though the padding of a window is attended to.
        let word_embeddings = embeddings.at("word_embeddings").embedding(config.vocab_size, size)?;
        let word_embeddings = word_embeddings.padded_with(config.pad_token_id.unwrap_or(-1));
        let position_embeddings =
            embeddings.at("position_embeddings").embedding(config.max_position_embeddings, size)?;
        let token_type_embeddings = embeddings.at("token_type_embeddings").embedding(config.type_vocab_size, size)?;
        let embeddings_norm = embeddings.at("LayerNorm").layer_norm(size, config.layer_norm_eps)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| BertLayer::new(&b.at("encoder.layer").at(i), config).map(Rc::new))
            .collect::<Result<_>>()?;
        b.at("pooler.dense").linear(size, size, true)?;
        Ok(BertModel {
            config: TextEncoderConfig::Bert(config.clone()),
            parameters: b.finish()?,
            word_embeddings,
            position_embeddings,
            token_type_embeddings,
            embeddings_norm,
            layers,
        })
    }
}

impl TextEncoder for BertModel {
    fn config(&self) -> &TextEncoderConfig {
        &self.config
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn embedding(&self) -> &Embedding {
        &self.word_embeddings
    }

    fn hidden_states(&self, ids: &Tensor, kind: Kind, gradient_checkpointing: bool) -> Vec<Tensor> {
        let positions = Tensor::arange(ids.size()[1], (Kind::Int64, ids.device()));
        // All tokens are of the first segment.
        let segment = self.token_type_embeddings.weight().select(0, 0);
        let embedded = self.word_embeddings.forward(ids) + segment + self.position_embeddings.forward(&positions);
        let embedded = self.embeddings_norm.forward(&embedded.to_kind(kind));
        through_layers(embedded, &self.layers, BertLayer::forward, gradient_checkpointing)
    }

    fn encode(
        &self,
        ids: &Tensor,
        _end: i64,
        kind: Kind,
        layer: TextLayer,
        gradient_checkpointing: bool,
    ) -> (Tensor, Option<Tensor>) {
        // Every layer ends with its norm; there is no other behind them.
        let states = self.hidden_states(ids, kind, gradient_checkpointing);
        (from_end(&states, layer.from_end).shallow_clone(), None)
    }
}

#[derive(Debug)]
struct BertLayer {
    query: Rc<Linear>,
    key: Rc<Linear>,
    value: Rc<Linear>,
    attention_output: Rc<Linear>,
    attention_norm: LayerNorm,
    intermediate: Rc<Linear>,
    output: Rc<Linear>,
    output_norm: LayerNorm,
    heads: i64,
}

impl BertLayer {
    fn new(b: &Builder, config: &BertConfig) -> Result<BertLayer> {
        let (size, inner) = (config.hidden_size, config.intermediate_size);
        let projection = |name: &str| b.at("attention.self").at(name).linear(size, size, true);
        Ok(BertLayer {
            query: projection("query")?,
            key: projection("key")?,
            value: projection("value")?,
            attention_output: b.at("attention.output.dense").linear(size, size, true)?,
            attention_norm: b.at("attention.output.LayerNorm").layer_norm(size, config.layer_norm_eps)?,
            intermediate: b.at("intermediate.dense").linear(size, inner, true)?,
            output: b.at("output.dense").linear(inner, size, true)?,
            output_norm: b.at("output.LayerNorm").layer_norm(size, config.layer_norm_eps)?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, input: &Tensor) -> Tensor {
        let heads = |projection: &Linear| split_heads(&projection.forward(input), self.heads);
        let attended = scaled_dot_product_attention(&heads(&self.query), &heads(&self.key), &heads(&self.value), false);
        let attended = self.attention_output.forward(&merge_heads(&attended)) + input;
        let attended = self.attention_norm.forward(&attended);
        let inner = self.intermediate.forward(&attended).gelu("none");
        self.output_norm.forward(&(self.output.forward(&inner) + attended))
    }
}
