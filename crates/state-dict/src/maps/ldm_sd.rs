//! UNet names: diffusers' `UNet2DConditionModel` ↔ the original (LDM, sgm) `UNetModel`, for any number of blocks and
//! layers. Names here are without the `model.diffusion_model.` prefix.
//! The original counts all layers of a half in one list, with the resampling layers among them; diffusers nests them
//! in blocks. Only the lengths of the blocks decide the numbers.

use super::{leading_number, replace_prefix};

/// What the numbers in UNet names depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnetLayout {
    /// ResNet layers of each down block (diffusers' `layers_per_block`, one per block).
    pub layers: Vec<usize>,
    /// Whether each up block has attention, in diffusers' order (deepest first).
    pub up_attention: Vec<bool>,
}

impl UnetLayout {
    /// A UNet whose blocks all have the same number of layers.
    pub fn uniform(layers_per_block: usize, up_attention: &[bool]) -> UnetLayout {
        UnetLayout { layers: vec![layers_per_block; up_attention.len()], up_attention: up_attention.to_vec() }
    }

    /// Reads the layout off diffusers' names.
    pub fn from_diffusers_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<UnetLayout> {
        let mut layers: Vec<usize> = Vec::new();
        let mut attention_blocks = Vec::new();
        for name in names {
            if let Some(rest) = name.strip_prefix("down_blocks.") {
                let (block, rest) = leading_number(rest)?;
                let Some((layer, _)) = rest.strip_prefix("resnets.").and_then(leading_number) else {
                    continue;
                };
                if block.max(layer) >= MAX_COUNT {
                    return None;
                }
                layers.resize(layers.len().max(block + 1), 0);
                layers[block] = layers[block].max(layer + 1);
            } else if let Some(rest) = name.strip_prefix("up_blocks.") {
                let (block, rest) = leading_number(rest)?;
                if rest.starts_with("attentions.") {
                    attention_blocks.push(block);
                }
            }
        }
        let up_attention = (0..layers.len()).map(|block| attention_blocks.contains(&block)).collect();
        (!layers.is_empty() && !layers.contains(&0)).then_some(UnetLayout { layers, up_attention })
    }

    /// Reads the layout off the original names: each `.0.op.` ends a block of layers.
    pub fn from_ldm_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<UnetLayout> {
        let mut last_input = 0;
        let mut downsamplers = Vec::new();
        let mut attention_at = Vec::new();
        for name in names {
            if let Some(rest) = name.strip_prefix("input_blocks.") {
                let (index, rest) = leading_number(rest)?;
                last_input = last_input.max(index);
                if rest.starts_with("0.op.") {
                    downsamplers.push(index);
                }
            } else if let Some(rest) = name.strip_prefix("output_blocks.") {
                let (index, rest) = leading_number(rest)?;
                if rest.starts_with("1.") && !rest.starts_with("1.conv.") {
                    attention_at.push(index);
                }
            }
        }
        if last_input >= MAX_COUNT {
            return None;
        }
        downsamplers.push(last_input + 1);
        downsamplers.sort_unstable();
        downsamplers.dedup();
        let mut layers = Vec::new();
        let mut start = 1;
        for end in downsamplers {
            layers.push(end.checked_sub(start)?);
            start = end + 1;
        }
        if layers.contains(&0) {
            return None;
        }
        let mut layout = UnetLayout { up_attention: vec![false; layers.len()], layers };
        for index in attention_at {
            let (block, _) = layout.up_position(index)?;
            layout.up_attention[block] = true;
        }
        Some(layout)
    }

    fn down_start(&self, block: usize) -> usize {
        1 + self.layers[..block].iter().map(|layers| layers + 1).sum::<usize>()
    }

    // Up blocks mirror the down blocks and have one layer more.
    fn up_length(&self, block: usize) -> usize {
        self.layers[self.layers.len() - 1 - block] + 1
    }

    fn up_start(&self, block: usize) -> usize {
        (0..block).map(|earlier| self.up_length(earlier)).sum()
    }

    fn down_position(&self, index: usize) -> Option<(usize, usize)> {
        let block = (0..self.layers.len()).rev().find(|&block| self.down_start(block) <= index)?;
        let layer = index - self.down_start(block);
        // The place after the last layer is the downsampler's; the last block has none.
        (layer <= self.layers[block]).then_some((block, layer))
    }

    fn up_position(&self, index: usize) -> Option<(usize, usize)> {
        let block = (0..self.layers.len()).rev().find(|&block| self.up_start(block) <= index)?;
        let layer = index - self.up_start(block);
        (layer < self.up_length(block)).then_some((block, layer))
    }
}

// No UNet comes near; a hostile name must not decide how much is allocated.
pub(super) const MAX_COUNT: usize = 1000;

const OUTSIDE: [(&str, &str); 7] = [
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];

const MIDDLE: [(&str, &str); 3] = [
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
];

const RESNET: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];

/// diffusers' name → the original one; `None` for a name that no UNet of this layout has.
pub fn unet_to_ldm(name: &str, layout: &UnetLayout) -> Option<String> {
    if let Some(outside) = replace_prefix(name, &OUTSIDE, true) {
        return Some(outside);
    }
    if let Some(rest) = name.strip_prefix("mid_block.resnets.") {
        let (layer, inner) = leading_number(rest)?;
        let place = ["middle_block.0", "middle_block.2"].get(layer)?;
        return Some(format!("{place}.{}", replace_prefix(inner, &RESNET, true)?));
    }
    if name.starts_with("mid_block.") {
        return replace_prefix(name, &MIDDLE, true);
    }
    let (down, rest) = match name.strip_prefix("down_blocks.") {
        Some(rest) => (true, rest),
        None => (false, name.strip_prefix("up_blocks.")?),
    };
    let (block, rest) = leading_number(rest)?;
    if block >= layout.layers.len() {
        return None;
    }
    let (half, start, length) = match down {
        true => ("input_blocks", layout.down_start(block), layout.layers[block]),
        false => ("output_blocks", layout.up_start(block), layout.up_length(block)),
    };
    if let Some(inner) = rest.strip_prefix("downsamplers.0.conv.").filter(|_| down) {
        return Some(format!("{half}.{}.0.op.{inner}", start + length));
    }
    if let Some(inner) = rest.strip_prefix("upsamplers.0.conv.").filter(|_| !down) {
        let place = if layout.up_attention[block] { 2 } else { 1 };
        return Some(format!("{half}.{}.{place}.conv.{inner}", start + length - 1));
    }
    let (kind, rest) = rest.split_once('.')?;
    let (layer, inner) = leading_number(rest)?;
    if layer >= length {
        return None;
    }
    match kind {
        "resnets" => Some(format!("{half}.{}.0.{}", start + layer, replace_prefix(inner, &RESNET, true)?)),
        "attentions" => Some(format!("{half}.{}.1.{inner}", start + layer)),
        _ => None,
    }
}

/// The original name → diffusers' one; `None` for a name that no UNet of this layout has.
pub fn ldm_to_unet(name: &str, layout: &UnetLayout) -> Option<String> {
    if let Some(outside) = replace_prefix(name, &OUTSIDE, false) {
        return Some(outside);
    }
    if let Some(rest) = name.strip_prefix("middle_block.") {
        let (place, inner) = leading_number(rest)?;
        return match place {
            0 | 2 => Some(format!("mid_block.resnets.{}.{}", place / 2, replace_prefix(inner, &RESNET, false)?)),
            1 => Some(format!("mid_block.attentions.0.{inner}")),
            _ => None,
        };
    }
    let (down, rest) = match name.strip_prefix("input_blocks.") {
        Some(rest) => (true, rest),
        None => (false, name.strip_prefix("output_blocks.")?),
    };
    let (index, rest) = leading_number(rest)?;
    let (place, inner) = leading_number(rest)?;
    let (block, layer) = if down { layout.down_position(index)? } else { layout.up_position(index)? };
    let half = if down { "down_blocks" } else { "up_blocks" };
    if down && layer == layout.layers[block] {
        let inner = inner.strip_prefix("op.").filter(|_| place == 0)?;
        return Some(format!("{half}.{block}.downsamplers.0.conv.{inner}"));
    }
    match place {
        0 => Some(format!("{half}.{block}.resnets.{layer}.{}", replace_prefix(inner, &RESNET, false)?)),
        1 | 2 if !down && inner.starts_with("conv.") => {
            let at_end =
                layer + 1 == layout.up_length(block) && place == if layout.up_attention[block] { 2 } else { 1 };
            at_end.then(|| format!("{half}.{block}.upsamplers.0.{inner}"))
        }
        1 => Some(format!("{half}.{block}.attentions.{layer}.{inner}")),
        _ => None,
    }
}
