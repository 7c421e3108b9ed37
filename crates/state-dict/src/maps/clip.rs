//! CLIP text encoder names. This program uses transformers' names with the `text_model.` prefix; files exist with and
//! without it, and single-file checkpoints put more in front.

/// What SD1 checkpoints put in front of the text encoder's names.
pub const LDM_PREFIX: &str = "cond_stage_model.transformer.";

/// What SDXL checkpoints put in front of the first text encoder's names.
pub const SGM_PREFIX: &str = "conditioner.embedders.0.transformer.";

const INSIDE: [&str; 4] =
    ["embeddings.token_embedding.", "embeddings.position_embedding.", "encoder.layers.", "final_layer_norm."];

/// This program's name for a text encoder tensor of a file without or with any of the prefixes; `None` for one that
/// is no parameter of the text encoder (position numbers, other parts of the file).
pub fn canonical_name(name: &str) -> Option<String> {
    let name = name.strip_prefix(LDM_PREFIX).or_else(|| name.strip_prefix(SGM_PREFIX)).unwrap_or(name);
    if name.ends_with("position_ids") {
        return None;
    }
    if name == "text_projection.weight" {
        return Some(name.to_string());
    }
    let inside = name.strip_prefix("text_model.").unwrap_or(name);
    INSIDE.iter().any(|start| inside.starts_with(start)).then(|| format!("text_model.{inside}"))
}

/// The name in a single-file SD1 checkpoint for one of this program's.
pub fn to_ldm(name: &str) -> Option<String> {
    name.starts_with("text_model.").then(|| format!("{LDM_PREFIX}{name}"))
}

/// The name without `text_model.`, as transformers 5 has it in memory.
pub fn short_name(name: &str) -> &str {
    name.strip_prefix("text_model.").unwrap_or(name)
}
