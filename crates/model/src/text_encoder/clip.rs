//! CLIP's text tower (transformers: `CLIPTextModel`, `CLIPTextModelWithProjection`), names with the `text_model.` prefix.

use super::{TextEncoder, TextEncoderConfig, check_heads, from_end, through_layers};
use crate::builder::Builder;
use crate::config_json::parse;
use crate::error::Result;
use crate::layers::{Embedding, LayerNorm, Linear, merge_heads, scaled_dot_product_attention, split_heads};
use crate::parameters::Parameters;
use sdtrain_state_dict::TextLayer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// The keys of `CLIPTextConfig` that this network follows, with transformers' defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
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
    /// `quick_gelu` (OpenAI) or `gelu` (OpenCLIP).
    pub hidden_act: String,
    /// Epsilon of every norm.
    pub layer_norm_eps: f64,
    /// Size of the joint space, and of what the projection gives.
    pub projection_dim: i64,
    /// Whether the file holds a projection: `CLIPTextModelWithProjection` in place of `CLIPTextModel`.
    #[serde(skip)]
    pub has_projection: bool,
    /// Start of text, as the file says it (SD1 files carry CLIP's legacy values).
    pub bos_token_id: i64,
    /// End of text, likewise.
    pub eos_token_id: i64,
    /// Padding, likewise.
    pub pad_token_id: i64,
}

impl Default for ClipTextConfig {
    fn default() -> ClipTextConfig {
        ClipTextConfig {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            projection_dim: 512,
            has_projection: false,
            bos_token_id: 49406,
            eos_token_id: 49407,
            pad_token_id: 1,
        }
    }
}

impl ClipTextConfig {
    /// From the parsed `config.json`.
    pub fn from_json(json: &Value) -> Result<ClipTextConfig> {
        let plain: &[(&str, &[Value])] = &[("hidden_act", &[json!("quick_gelu"), json!("gelu")])];
        let config: ClipTextConfig = parse("text_encoder/config.json", json, plain)?;
        Ok(ClipTextConfig { has_projection: json["architectures"][0] == WITH_PROJECTION, ..config })
    }

    /// As transformers writes it.
    pub fn to_json(&self) -> Value {
        let mut json = serde_json::to_value(self).expect("plain data is JSON");
        json["architectures"] = json!([if self.has_projection { WITH_PROJECTION } else { "CLIPTextModel" }]);
        json["model_type"] = json!("clip_text_model");
        json
    }
}

const WITH_PROJECTION: &str = "CLIPTextModelWithProjection";

/// Pre-norm transformer with causal attention.
#[derive(Debug)]
pub struct ClipTextModel {
    config: TextEncoderConfig,
    parameters: Parameters,
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<Rc<EncoderLayer>>,
    final_layer_norm: LayerNorm,
    text_projection: Option<Rc<Linear>>,
}

impl ClipTextModel {
    /// Builds the network of `config` from the root builder `b`.
    pub fn new(b: Builder, config: &ClipTextConfig) -> Result<ClipTextModel> {
        let size = config.hidden_size;
        check_heads(size, config.num_attention_heads)?;
        let root = b.at("text_model");
        let embeddings = root.at("embeddings");
        let token_embedding = embeddings.at("token_embedding").embedding(config.vocab_size, size)?;
        let position_embedding = embeddings.at("position_embedding").embedding(config.max_position_embeddings, size)?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| EncoderLayer::new(&root.at("encoder.layers").at(i), config).map(Rc::new))
            .collect::<Result<_>>()?;
        let final_layer_norm = root.at("final_layer_norm").layer_norm(size, config.layer_norm_eps)?;
        let project = || b.at("text_projection").linear(size, config.projection_dim, false);
        let text_projection = config.has_projection.then(project).transpose()?;
        Ok(ClipTextModel {
            config: TextEncoderConfig::Clip(config.clone()),
            parameters: b.finish()?,
            token_embedding,
            position_embedding,
            layers,
            final_layer_norm,
            text_projection,
        })
    }
}

impl TextEncoder for ClipTextModel {
    fn config(&self) -> &TextEncoderConfig {
        &self.config
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn embedding(&self) -> &Embedding {
        &self.token_embedding
    }

    /// Before the final norm.
    fn hidden_states(&self, ids: &Tensor, kind: Kind, gradient_checkpointing: bool) -> Vec<Tensor> {
        let positions = Tensor::arange(ids.size()[1], (Kind::Int64, ids.device()));
        let embedded = self.token_embedding.forward(ids) + self.position_embedding.forward(&positions);
        through_layers(embedded.to_kind(kind), &self.layers, EncoderLayer::forward, gradient_checkpointing)
    }

    fn encode(
        &self,
        ids: &Tensor,
        end: i64,
        kind: Kind,
        layer: TextLayer,
        gradient_checkpointing: bool,
    ) -> (Tensor, Option<Tensor>) {
        let states = self.hidden_states(ids, kind, gradient_checkpointing);
        let wanted = from_end(&states, layer.from_end);
        let attended = if layer.final_norm { self.final_layer_norm.forward(wanted) } else { wanted.shallow_clone() };
        let pooled = self.text_projection.as_ref().map(|projection| {
            let last = self.final_layer_norm.forward(&states[states.len() - 1]);
            // Of several largest numbers argmax takes the first; ids past the vocabulary are learned words and no end.
            let at = ids.eq(end).to_kind(Kind::Int).argmax(-1, false);
            let rows = Tensor::arange(ids.size()[0], (Kind::Int64, ids.device()));
            projection.forward(&last.index(&[Some(rows), Some(at)]))
        });
        (attended, pooled)
    }
}

#[derive(Debug)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Rc<Linear>,
    k_proj: Rc<Linear>,
    v_proj: Rc<Linear>,
    out_proj: Rc<Linear>,
    layer_norm2: LayerNorm,
    fc1: Rc<Linear>,
    fc2: Rc<Linear>,
    heads: i64,
    quick_gelu: bool,
}

impl EncoderLayer {
    fn new(b: &Builder, config: &ClipTextConfig) -> Result<EncoderLayer> {
        let size = config.hidden_size;
        let attention = b.at("self_attn");
        let projection = |name: &str| attention.at(name).linear(size, size, true);
        Ok(EncoderLayer {
            layer_norm1: b.at("layer_norm1").layer_norm(size, config.layer_norm_eps)?,
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            layer_norm2: b.at("layer_norm2").layer_norm(size, config.layer_norm_eps)?,
            fc1: b.at("mlp.fc1").linear(size, config.intermediate_size, true)?,
            fc2: b.at("mlp.fc2").linear(config.intermediate_size, size, true)?,
            heads: config.num_attention_heads,
            quick_gelu: config.hidden_act == "quick_gelu",
        })
    }

    fn forward(&self, input: &Tensor) -> Tensor {
        let normed = self.layer_norm1.forward(input);
        let heads = |projection: &Linear| split_heads(&projection.forward(&normed), self.heads);
        let attended =
            scaled_dot_product_attention(&heads(&self.q_proj), &heads(&self.k_proj), &heads(&self.v_proj), true);
        let hidden = self.out_proj.forward(&merge_heads(&attended)) + input;
        let inner = self.fc1.forward(&self.layer_norm2.forward(&hidden));
        // quick_gelu(x) = x · sigmoid(1.702 x), OpenAI's approximation.
        let inner = if self.quick_gelu { &inner * (&inner * 1.702).sigmoid() } else { inner.gelu("none") };
        self.fc2.forward(&inner) + hidden
    }
}
