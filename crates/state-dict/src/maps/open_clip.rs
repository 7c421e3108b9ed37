//! OpenCLIP's text tower, as single-file SD2 and SDXL checkpoints have it, under transformers' names. Queries, keys and values lie in one
//! tensor there, one behind the other; the projection is what states are multiplied by from the right, so the other way round than a
//! linear layer's weight.

/// What SD2 checkpoints put in front of the text encoder's names.
pub const LDM_PREFIX: &str = "cond_stage_model.model.";

/// What SDXL checkpoints put in front of the second text encoder's names.
pub const SGM_PREFIX: &str = "conditioner.embedders.1.model.";

/// What checkpoints of SDXL's refiner put in front of its only text encoder's names.
pub const SGM_REFINER_PREFIX: &str = "conditioner.embedders.0.model.";

/// The projection, and transformers' name for its transpose.
pub const PROJECTION: (&str, &str) = ("text_projection", "text_projection.weight");

const OUTSIDE: [(&str, &str); 4] = [
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
];

const INSIDE: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
];

/// The parts of `attn.in_proj_weight` and `attn.in_proj_bias`, in their order.
pub const JOINED: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// Where one of transformers' tensors lies in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// By itself, under this name.
    Whole(String),
    /// As this third of the rows of a tensor.
    Third(String, usize),
    /// By itself, rows and columns exchanged.
    Transposed(String),
}

/// Where transformers' `name` lies, without the checkpoint's prefix.
pub fn place(name: &str) -> Option<Place> {
    if name == PROJECTION.1 {
        return Some(Place::Transposed(PROJECTION.0.to_string()));
    }
    if let Some((original, _)) = OUTSIDE.iter().find(|(_, canonical)| *canonical == name) {
        return Some(Place::Whole((*original).to_string()));
    }
    let (layer, rest) = name.strip_prefix("text_model.encoder.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let root = format!("transformer.resblocks.{layer}");
    if let Some((original, _)) = INSIDE.iter().find(|(_, canonical)| *canonical == module) {
        return Some(Place::Whole(format!("{root}.{original}.{kind}")));
    }
    let part = JOINED.iter().position(|part| module.strip_prefix("self_attn.") == Some(part))?;
    Some(Place::Third(format!("{root}.attn.in_proj_{kind}"), part))
}

/// transformers' names for what lies at `name` of a checkpoint, without its prefix: three for a joined tensor, one for others.
pub fn canonical_names(name: &str) -> Option<Vec<String>> {
    if name == PROJECTION.0 {
        return Some(vec![PROJECTION.1.to_string()]);
    }
    if let Some((_, canonical)) = OUTSIDE.iter().find(|(original, _)| *original == name) {
        return Some(vec![(*canonical).to_string()]);
    }
    let (layer, rest) = name.strip_prefix("transformer.resblocks.")?.split_once('.')?;
    layer.parse::<usize>().ok()?;
    let root = format!("text_model.encoder.layers.{layer}");
    if let Some(kind) = rest.strip_prefix("attn.in_proj_") {
        return Some(JOINED.map(|part| format!("{root}.self_attn.{part}.{kind}")).to_vec());
    }
    let (module, kind) = rest.rsplit_once('.')?;
    let (_, canonical) = INSIDE.iter().find(|(original, _)| *original == module)?;
    Some(vec![format!("{root}.{canonical}.{kind}")])
}

/// Whether a tensor of a checkpoint, with its prefix, belongs to the text encoder: the last layer does, which is not read.
pub fn is_text_encoder(name: &str) -> bool {
    name.strip_prefix(LDM_PREFIX).is_some_and(|name| canonical_names(name).is_some())
}

/// The layer that a name of a checkpoint belongs to.
pub fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("transformer.resblocks.")?.split('.').next()?.parse().ok()
}
