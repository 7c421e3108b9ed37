//! Which text encoders these are.

use crate::error::{Error, Result};
use sdtrain_feature_cache::TextEncoderIdentity;
use sdtrain_model::text_encoder::{BertConfig, ClipTextConfig, TextEncoderConfig};
use sdtrain_model::{Frozen, STATES_VERSION, StableDiffusion, dtype_of};
use sdtrain_torch::tensor_to_bytes;

/// The identity of the model's text encoders: equal for equal weights and settings, wherever they were read from.
pub(super) fn text_encoder_identity(model: &StableDiffusion) -> Result<TextEncoderIdentity> {
    // Weights that were given back would make one name for all encoders.
    model.ensure_loaded(Frozen::TextEncoder)?;
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let mut width = 0;
    for encoder in &model.text_encoders {
        let config = encoder.network.config();
        width += config.hidden_size() as usize;
        field(settings(config).to_string().as_bytes());
        for (name, weight) in encoder.network.parameters().iter() {
            field(name.as_bytes());
            // A kind by itself: the same bytes are other numbers in another one.
            field(format!("{:?} {:?}", weight.kind(), weight.size()).as_bytes());
            field(&tensor_to_bytes(weight)?);
        }
    }
    if !model.family.text_layer().final_norm {
        field(b"without the final norm");
    }
    let none = Error::NoEncoder { network: "text encoder" };
    Ok(TextEncoderIdentity {
        digest: *hasher.finalize().as_bytes(),
        compute: dtype_of(model.compute).ok_or(none)?,
        hidden_size: width,
        states_version: STATES_VERSION,
    })
}

/// What besides its parameters decides the states of a text encoder. Taken apart without `..`, so that a new key is thought about here.
fn settings(config: &TextEncoderConfig) -> serde_json::Value {
    match config {
        // Marks and padding are in the tokens; whether there is a projection shows in the parameters.
        TextEncoderConfig::Clip(ClipTextConfig {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            max_position_embeddings,
            hidden_act,
            layer_norm_eps,
            projection_dim: _,
            has_projection: _,
            bos_token_id: _,
            eos_token_id: _,
            pad_token_id: _,
        }) => serde_json::json!([
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            max_position_embeddings,
            hidden_act,
            layer_norm_eps,
        ]),
        // The sizes show in the parameters.
        TextEncoderConfig::Bert(BertConfig {
            vocab_size: _,
            hidden_size: _,
            intermediate_size: _,
            num_hidden_layers,
            num_attention_heads,
            max_position_embeddings: _,
            type_vocab_size: _,
            hidden_act,
            layer_norm_eps,
            pad_token_id: _,
            hidden_dropout_prob: _,
            attention_probs_dropout_prob: _,
        }) => serde_json::json!(["bert", num_hidden_layers, num_attention_heads, hidden_act, layer_norm_eps]),
    }
}
