//! One file of tensors: its kind, family, sizes, rank and metadata.

use std::collections::BTreeMap;

use sdtrain_state_dict::maps::adapter_family::{adapter_key, family_of_adapter_file};
use sdtrain_state_dict::maps::lora_peft::{LoraKey, LoraTensor, Part};
use sdtrain_state_dict::maps::{clip, open_clip};
use sdtrain_state_dict::{ControlNet, Family, FileKind, Reader, read_floats, recognise_with_reason};
use serde_json::{Map, Value as Json, json};

use super::{Description, control_net};
use crate::Failure;
use crate::commands::check::millions;

pub(super) fn describe(file: &dyn Reader, description: &mut Description) -> Result<(), Failure> {
    describe_with(file, None, description)
}

/// The same of the weights in a folder, whose `config.json` says how a ControlNet is made.
pub(super) fn describe_with(
    file: &dyn Reader,
    config: Option<Json>,
    description: &mut Description,
) -> Result<(), Failure> {
    let (kind, reason) = recognise_with_reason(file);
    description.data("kind", short_name(&kind));
    description.fact("description", "kind", kind.to_string());
    description.fact("reason", "because", reason);
    if let Some(family) = kind.family().or_else(|| family_of_parts(file, &kind)) {
        description.fact("family", "family", family.name());
    }
    sizes(file, description);
    match &kind {
        FileKind::Ldm { .. } => networks(file, description),
        FileKind::ControlNet { .. } => {
            let found = match config {
                Some(config) => ControlNet::new(file, config),
                None => ControlNet::of_file(file),
            };
            control_net::describe(found, description);
        }
        FileKind::KohyaLora { kind, modules, rank } | FileKind::PeftLora { kind, modules, rank } => {
            description.data("adapter", kind.name());
            description.fact("modules", "modules", *modules);
            if let Some(rank) = rank {
                description.fact("rank", "rank", *rank);
            }
            lora(file, description)?;
        }
        FileKind::TextualInversion { vectors, width, second_width } => {
            description.fact("vectors", "vectors", *vectors);
            description.fact("width", "width", *width);
            if let Some(width) = second_width {
                description.fact("second_width", "second width", *width);
            }
        }
        FileKind::Trace { steps } => description.fact("steps", "steps", *steps),
        FileKind::ClipText { hidden_size: Some(width) } | FileKind::BertText { hidden_size: Some(width) } => {
            description.fact("hidden_size", "width", *width);
        }
        FileKind::DiffusersUnet { cross_attention_dim: Some(width), .. } => {
            description.fact("cross_attention_dim", "text width", *width);
        }
        _ => {}
    }
    metadata(file, description);
    tensors(file, description);
    Ok(())
}

/// Number of tensors and parameters, and number formats.
pub(super) fn sizes(file: &dyn Reader, description: &mut Description) {
    let mut dtypes: BTreeMap<String, usize> = BTreeMap::new();
    let (mut parameters, mut bytes) = (0, 0);
    let names = file.names();
    for info in names.iter().filter_map(|name| file.info(name)) {
        *dtypes.entry(info.dtype.name().to_owned()).or_default() += 1;
        parameters += info.elements();
        bytes += info.byte_length();
    }
    description.fact("tensor_count", "tensors", names.len());
    description.data("parameters", parameters);
    description.line("parameters", millions(parameters));
    description.data("bytes", bytes);
    description.line("size", format!("{:.1} MB", bytes as f64 / 1e6));
    let formats: Vec<String> = dtypes.iter().map(|(name, count)| format!("{name} ({count})")).collect();
    description.line("formats", formats.join(", "));
    description.data("dtypes", json!(dtypes));
}

fn networks(file: &dyn Reader, description: &mut Description) {
    let prefixes = [
        ("unet", &["model.diffusion_model."][..]),
        ("vae", &["first_stage_model."]),
        ("text_encoder", &["cond_stage_model.", clip::SGM_PREFIX]),
        ("text_encoder_2", &[open_clip::SGM_PREFIX, open_clip::SGM_REFINER_PREFIX]),
    ];
    let mut parts = Map::new();
    for (part, prefixes) in prefixes {
        let names: Vec<&str> =
            file.names().into_iter().filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))).collect();
        if names.is_empty() {
            continue;
        }
        let parameters: usize = names.iter().filter_map(|name| file.info(name)).map(|info| info.elements()).sum();
        description.line(part, format!("{} tensors, {} parameters", names.len(), millions(parameters)));
        parts.insert(part.to_owned(), json!({"tensor_count": names.len(), "parameters": parameters}));
    }
    description.data("parts", parts);
}

fn lora(file: &dyn Reader, description: &mut Description) -> Result<(), Failure> {
    let mut modules: BTreeMap<(Part, String), Option<usize>> = BTreeMap::new();
    let mut alpha = None;
    for name in file.names() {
        let Some(LoraKey { part, module, tensor }) = adapter_key(name) else { continue };
        let rank = file.info(name).and_then(|info| tensor.rank(&info.shape));
        let known = modules.entry((part, module)).or_default();
        *known = known.or(rank);
        if tensor == LoraTensor::Alpha && alpha.is_none() {
            alpha = read_floats(file, name)?.first().copied();
        }
    }
    let mut ranks: BTreeMap<usize, usize> = BTreeMap::new();
    let mut parts: BTreeMap<String, usize> = BTreeMap::new();
    for ((part, _), rank) in &modules {
        *parts.entry(part.to_string()).or_default() += 1;
        if let Some(rank) = rank {
            *ranks.entry(*rank).or_default() += 1;
        }
    }
    if let Some(alpha) = alpha {
        description.fact("alpha", "alpha", json!(alpha));
    }
    if ranks.len() > 1 {
        let all: Vec<String> = ranks.iter().map(|(rank, count)| format!("{rank} ({count})")).collect();
        description.line("all ranks", all.join(", "));
    }
    let ranks: Map<String, Json> = ranks.iter().map(|(rank, count)| (rank.to_string(), json!(count))).collect();
    description.data("ranks", ranks);
    let shown: Vec<String> = parts.iter().map(|(part, count)| format!("{part} ({count})")).collect();
    description.line("adapts", shown.join(", "));
    description.data("adapts", json!(parts));
    Ok(())
}

/// The family of what is a part of a model, or stands beside it.
fn family_of_parts(file: &dyn Reader, kind: &FileKind) -> Option<Family> {
    match kind {
        FileKind::DiffusersUnet { cross_attention_dim, .. } => Family::of_text_width((*cross_attention_dim)?),
        FileKind::KohyaLora { .. } | FileKind::PeftLora { .. } => family_of_adapter_file(file),
        // Of the families only SDXL has two text encoders, and the first is as wide as SD1's.
        FileKind::TextualInversion { second_width: Some(_), .. } => Some(Family::Sdxl),
        FileKind::TextualInversion { width, .. } => Family::of_text_width(*width),
        FileKind::ControlNet { family, .. } => *family,
        _ => None,
    }
}

fn metadata(file: &dyn Reader, description: &mut Description) {
    const SHOWN: usize = 100;
    for (key, value) in file.metadata() {
        let mut shown: String = value.chars().take(SHOWN).collect::<String>().escape_debug().to_string();
        if value.chars().nth(SHOWN).is_some() {
            shown.push('…');
        }
        description.line(&format!("  {key}"), shown);
    }
    description.data("metadata", json!(file.metadata()));
}

fn tensors(file: &dyn Reader, description: &mut Description) {
    let entry = |name: &str| {
        let info = file.info(name)?;
        Some((name.to_owned(), json!({"dtype": info.dtype.name(), "shape": info.shape})))
    };
    let tensors: Map<String, Json> = file.names().into_iter().filter_map(entry).collect();
    description.data("tensors", tensors);
}

fn short_name(kind: &FileKind) -> &'static str {
    match kind {
        FileKind::Ldm { .. } => "single_file",
        FileKind::ControlNet { .. } => "controlnet",
        FileKind::DiffusersUnet { .. } => "unet",
        FileKind::Vae { .. } => "vae",
        FileKind::ClipText { .. } | FileKind::BertText { .. } => "text_encoder",
        FileKind::KohyaLora { .. } => "kohya_lora",
        FileKind::PeftLora { .. } => "peft_lora",
        FileKind::TextualInversion { .. } => "textual_inversion",
        FileKind::Trace { .. } => "trace",
        FileKind::Unknown => "unknown",
    }
}
