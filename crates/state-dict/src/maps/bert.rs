//! Names of BERT as a text encoder: transformers' `BertModel`, which files have with and without `bert.` in front, in whole models
//! behind the prefix of SD1's text encoder, and in old ones with TensorFlow's names of norms.

use super::clip::LDM_PREFIX;

/// The first tensor of every one.
pub const FIRST: &str = "embeddings.word_embeddings.weight";

/// Heads of other tasks are no part of it.
const INSIDE: [&str; 6] = [
    "embeddings.word_embeddings.",
    "embeddings.position_embeddings.",
    "embeddings.token_type_embeddings.",
    "embeddings.LayerNorm.",
    "encoder.layer.",
    "pooler.dense.",
];

/// This program's name, which is `BertModel`'s, for a tensor of a file with any of the prefixes; `None` for one that is no parameter of it.
pub fn canonical_name(name: &str) -> Option<String> {
    let name = name.strip_prefix(LDM_PREFIX).unwrap_or(name);
    let inside = name.strip_prefix("bert.").unwrap_or(name);
    if !INSIDE.iter().any(|start| inside.starts_with(start)) {
        return None;
    }
    let name = inside.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_age_come_to_the_same() {
        for name in ["encoder.layer.3.attention.self.query.weight", "bert.encoder.layer.3.attention.self.query.weight"]
        {
            assert_eq!(canonical_name(name).unwrap(), "encoder.layer.3.attention.self.query.weight");
            assert_eq!(canonical_name(&format!("{LDM_PREFIX}{name}")), canonical_name(name));
        }
        assert_eq!(canonical_name("bert.embeddings.LayerNorm.gamma").unwrap(), "embeddings.LayerNorm.weight");
        for name in [
            "embeddings.position_ids",
            "cls.predictions.bias",
            "text_model.embeddings.token_embedding.weight",
            "embeddings.token_embedding.weight",
            "embeddings.position_embedding.weight",
            "encoder.layers.0.mlp.fc1.weight",
        ] {
            assert_eq!(canonical_name(name), None, "{name}");
        }
    }
}
