//! VAE names: diffusers' `AutoencoderKL` ↔ the original (LDM) one, for any number of levels, and diffusers' own older
//! attention names. Names here are without the `first_stage_model.` prefix.
//! The original numbers the decoder's levels from fine to coarse, diffusers in the order of use; the original's
//! attention is made of 1×1 convolutions, diffusers' of linear layers with the same numbers.

use super::{leading_number, replace_prefix};

const OUTSIDE: [(&str, &str); 3] = [("conv_norm_out", "norm_out"), ("conv_in", "conv_in"), ("conv_out", "conv_out")];

const QUANT: [&str; 2] = ["quant_conv.", "post_quant_conv."];

const ATTENTION: [(&str, &str); 5] =
    [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")];

const OLD_ATTENTION: [(&str, &str); 4] =
    [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];

/// How many levels a VAE has, read off its names in either naming.
pub fn levels<'n>(names: impl IntoIterator<Item = &'n str>) -> usize {
    names
        .into_iter()
        .filter_map(|name| {
            let block = name.strip_prefix("encoder.down_blocks.");
            let block = block.or_else(|| name.strip_prefix("decoder.up_blocks."));
            let block = block.or_else(|| name.strip_prefix("encoder.down."));
            let block = block.or_else(|| name.strip_prefix("decoder.up."))?;
            Some(leading_number(block)?.0.saturating_add(1))
        })
        .max()
        .unwrap_or(0)
}

/// diffusers' current name for a diffusers name of any age; other names come back as they are.
pub fn current_name(name: &str) -> String {
    let inside = name.split_once(".mid_block.attentions.0.");
    match inside.and_then(|(half, rest)| Some((half, replace_prefix(rest, &OLD_ATTENTION, false)?))) {
        Some((half, rest)) => format!("{half}.mid_block.attentions.0.{rest}"),
        None => name.to_string(),
    }
}

/// diffusers' name → the original one; `None` for a name that no VAE has.
pub fn vae_to_ldm(name: &str, levels: usize) -> Option<String> {
    if QUANT.iter().any(|prefix| name.starts_with(prefix)) {
        return Some(name.to_string());
    }
    let (half, rest) = half_of(name)?;
    if let Some(outside) = replace_prefix(rest, &OUTSIDE, true) {
        return Some(format!("{half}.{outside}"));
    }
    if let Some(rest) = rest.strip_prefix("mid_block.resnets.") {
        let (layer, inner) = leading_number(rest)?;
        return Some(format!("{half}.mid.block_{}.{}", layer.checked_add(1)?, resnet_to_ldm(inner)));
    }
    if let Some(inner) = rest.strip_prefix("mid_block.attentions.0.") {
        return Some(format!("{half}.mid.attn_1.{}", replace_prefix(inner, &ATTENTION, true)?));
    }
    let encoder = half == "encoder";
    let rest = rest.strip_prefix(if encoder { "down_blocks." } else { "up_blocks." })?;
    let (block, rest) = leading_number(rest)?;
    let level = if encoder { block } else { levels.checked_sub(block.checked_add(1)?)? };
    let short = if encoder { "down" } else { "up" };
    if let Some(inner) = rest.strip_prefix("downsamplers.0.").filter(|_| encoder) {
        return Some(format!("{half}.{short}.{level}.downsample.{inner}"));
    }
    if let Some(inner) = rest.strip_prefix("upsamplers.0.").filter(|_| !encoder) {
        return Some(format!("{half}.{short}.{level}.upsample.{inner}"));
    }
    let (layer, inner) = leading_number(rest.strip_prefix("resnets.")?)?;
    Some(format!("{half}.{short}.{level}.block.{layer}.{}", resnet_to_ldm(inner)))
}

/// The original name → diffusers' one; `None` for a name that no VAE has.
pub fn ldm_to_vae(name: &str, levels: usize) -> Option<String> {
    if QUANT.iter().any(|prefix| name.starts_with(prefix)) {
        return Some(name.to_string());
    }
    let (half, rest) = half_of(name)?;
    if let Some(outside) = replace_prefix(rest, &OUTSIDE, false) {
        return Some(format!("{half}.{outside}"));
    }
    if let Some(rest) = rest.strip_prefix("mid.block_") {
        let (number, inner) = leading_number(rest)?;
        return Some(format!("{half}.mid_block.resnets.{}.{}", number.checked_sub(1)?, resnet_from_ldm(inner)));
    }
    if let Some(inner) = rest.strip_prefix("mid.attn_1.") {
        return Some(format!("{half}.mid_block.attentions.0.{}", replace_prefix(inner, &ATTENTION, false)?));
    }
    let encoder = half == "encoder";
    let rest = rest.strip_prefix(if encoder { "down." } else { "up." })?;
    let (level, rest) = leading_number(rest)?;
    let block = if encoder { level } else { levels.checked_sub(level.checked_add(1)?)? };
    let blocks = if encoder { "down_blocks" } else { "up_blocks" };
    if let Some(inner) = rest.strip_prefix("downsample.").filter(|_| encoder) {
        return Some(format!("{half}.{blocks}.{block}.downsamplers.0.{inner}"));
    }
    if let Some(inner) = rest.strip_prefix("upsample.").filter(|_| !encoder) {
        return Some(format!("{half}.{blocks}.{block}.upsamplers.0.{inner}"));
    }
    let (layer, inner) = leading_number(rest.strip_prefix("block.")?)?;
    Some(format!("{half}.{blocks}.{block}.resnets.{layer}.{}", resnet_from_ldm(inner)))
}

/// The shape that a tensor with this diffusers name has in diffusers' naming: attention matrices lose the two
/// dimensions of one that they have as convolutions.
pub fn shape_in_diffusers(name: &str, shape: &[usize]) -> Vec<usize> {
    match shape {
        [out, into, 1, 1] if is_attention_matrix(name) => vec![*out, *into],
        _ => shape.to_vec(),
    }
}

/// The shape that a tensor with this diffusers name has in the original naming.
pub fn shape_in_ldm(name: &str, shape: &[usize]) -> Vec<usize> {
    match shape {
        [out, into] if is_attention_matrix(name) => vec![*out, *into, 1, 1],
        _ => shape.to_vec(),
    }
}

fn is_attention_matrix(name: &str) -> bool {
    let inner = name.split_once(".mid_block.attentions.0.").map(|(_, inner)| inner);
    matches!(inner, Some("to_q.weight" | "to_k.weight" | "to_v.weight" | "to_out.0.weight"))
}

fn half_of(name: &str) -> Option<(&str, &str)> {
    name.split_once('.').filter(|(half, _)| matches!(*half, "encoder" | "decoder"))
}

fn resnet_to_ldm(inner: &str) -> String {
    replace_prefix(inner, &[("conv_shortcut", "nin_shortcut")], true).unwrap_or_else(|| inner.to_string())
}

fn resnet_from_ldm(inner: &str) -> String {
    replace_prefix(inner, &[("conv_shortcut", "nin_shortcut")], false).unwrap_or_else(|| inner.to_string())
}
