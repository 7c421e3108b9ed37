//! How many numbers of one image a network keeps for its backward pass, layer by layer, and what of it is left where blocks are
//! computed again.
//!
//! What autograd keeps: a norm its input; an activation its input; a convolution its input, trained or not; a linear layer its
//! input where its weight is trained or adapted; attention the queries, keys, values and its result, once more as the layer behind
//! it takes it; the gate of a feed-forward both halves and the gate's activation. Where a norm and the activation behind it are one node, as
//! kernels of our own are, they keep the norm's input, and a gate both halves ([`Nodes`]).

use std::collections::BTreeMap;

use sdtrain_recipe::GradientCheckpointing;

use crate::estimate::level_of;
use sdtrain_state_dict::architecture::Shapes;

/// What autograd sees of a norm and its activation, and of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nodes {
    /// One node each.
    Joined,
    /// libtorch's, one by one.
    Apart,
}

impl Nodes {
    /// Numbers that are kept for each one of a norm with an activation behind it.
    fn of_activated_norm(self) -> f64 {
        if self == Nodes::Joined { 1.0 } else { 2.0 }
    }

    /// For each of the values and gates.
    fn of_gate(self) -> f64 {
        if self == Nodes::Joined { 1.0 } else { 1.5 }
    }
}

/// Numbers that one image makes a network keep.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    /// By block (a residual block, a transformer, a layer of a text encoder).
    blocks: BTreeMap<String, Block>,
    /// Outside of them.
    outside: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    kept: f64,
    input: f64,
    at_full_size: bool,
}

impl Kept {
    /// With the blocks of `checkpointing` computed again: of those their inputs, and once the largest with the gradients that go
    /// back through it.
    pub fn under(&self, checkpointing: GradientCheckpointing) -> f64 {
        let again = |block: &Block| match checkpointing {
            GradientCheckpointing::None => false,
            GradientCheckpointing::HighResolution => block.at_full_size,
            GradientCheckpointing::All => true,
        };
        let blocks = self.blocks.values();
        let kept: f64 = blocks.clone().map(|block| if again(block) { block.input } else { block.kept }).sum();
        let largest = blocks.filter(|block| again(block)).map(|block| block.kept).fold(0.0, f64::max);
        self.outside + kept + 2.0 * largest
    }

    fn add(&mut self, block: Option<&str>, at_full_size: bool, kept: f64) {
        match block {
            Some(block) => {
                let block = self.blocks.entry(block.to_owned()).or_default();
                block.kept += kept;
                block.at_full_size = at_full_size;
            }
            None => self.outside += kept,
        }
    }
}

/// Of the UNet at `latents` positions, beside prompts of so many `tokens`; `whole` where its own weights are trained.
pub(crate) fn of_unet(shapes: &Shapes, latents: f64, tokens: f64, levels: usize, whole: bool, nodes: Nodes) -> Kept {
    let mut kept = Kept::default();
    let trained = if whole { 1.0 } else { 0.0 };
    for (name, shape) in shapes {
        let level = level_of(name, levels);
        let area = latents / 4f64.powi(level as i32);
        let outputs = shape[0] as f64 * area;
        let inputs = shape.get(1).copied().unwrap_or_default() as f64 * area;
        let layer = name.strip_suffix(".weight").unwrap_or_default();
        let last = layer.rsplit('.').next().unwrap_or_default();
        let numbers = match last {
            _ if layer.contains("time_emb") => 0.0,
            "norm1" | "norm2" if layer.contains(".resnets.") => nodes.of_activated_norm() * outputs,
            "conv_norm_out" => nodes.of_activated_norm() * outputs,
            "conv1" | "conv2" | "conv_out" | "proj_in" | "conv" if shape.len() == 4 => {
                match layer.contains("upsamplers") {
                    true => 4.0 * inputs,
                    false => inputs,
                }
            }
            "proj_in" | "proj_out" => inputs * if shape.len() == 4 { 1.0 } else { trained },
            "norm" | "norm1" | "norm2" | "norm3" => outputs,
            // Its input, which keys and values of self-attention share, and itself.
            "to_q" => inputs + outputs,
            "to_k" | "to_v" if layer.contains(".attn2.") => shape[0] as f64 * tokens,
            "to_k" | "to_v" => outputs,
            // Attention's result as it comes and as it goes on.
            "0" if layer.contains(".to_out.") => 2.0 * inputs,
            "proj" if layer.contains(".ff.") => nodes.of_gate() * outputs + trained * inputs,
            "2" if layer.contains(".ff.") => trained * inputs,
            _ => 0.0,
        };
        let block = block_of(layer);
        kept.add(block, level == 0 && !layer.starts_with("mid_block."), numbers);
        let is_first = layer.contains(".resnets.") && last == "norm1" || layer.ends_with(".norm") && block.is_some();
        if let (true, Some(block)) = (is_first, block.and_then(|block| kept.blocks.get_mut(block))) {
            block.input = outputs;
        }
    }
    kept
}

/// The residual block or the transformer that a layer is in: `down_blocks.0.resnets.1`.
fn block_of(layer: &str) -> Option<&str> {
    let kind = ["resnets.", "attentions."].into_iter().find_map(|kind| Some(layer.find(kind)? + kind.len()))?;
    let number = layer[kind..].find('.').unwrap_or(layer.len() - kind);
    Some(&layer[..kind + number])
}

/// Of a text encoder, CLIP's or BERT's, that is trained, or that words are learned through: of a prompt with so many `tokens`, all its
/// windows together.
pub(crate) fn of_text_encoder(shapes: &Shapes, tokens: f64) -> Kept {
    let mut kept = Kept::default();
    for (name, shape) in shapes {
        let layer = name.strip_suffix(".weight").unwrap_or_default();
        let block = ["layers.", "encoder.layer."].into_iter().find_map(|list| Some(layer.find(list)? + list.len()));
        let Some(block) = block else { continue };
        let Some(end) = layer[block..].find('.') else { continue };
        let (block, inside) = (&layer[..block + end], &layer[block + end + 1..]);
        let [outputs, inputs] = [0, 1].map(|side| shape.get(side).copied().unwrap_or_default() as f64 * tokens);
        let numbers = match inside {
            "layer_norm1" | "layer_norm2" => 2.0 * outputs,
            "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" => outputs,
            "self_attn.out_proj" => 2.0 * inputs,
            // `quick_gelu` is a product with a sigmoid: input, scaled input, sigmoid and result.
            "mlp.fc1" => 4.0 * outputs,
            // Its input, which keys and values share, and itself.
            "attention.self.query" => inputs + outputs,
            "attention.self.key" | "attention.self.value" => outputs,
            "attention.output.dense" => 2.0 * inputs,
            // A norm behind its layer: its input, and its result as the layers behind it take it; of the last one the next layer does.
            "attention.output.LayerNorm" => 2.0 * outputs,
            "output.LayerNorm" => outputs,
            // Its result, and what GELU makes of it.
            "intermediate.dense" => 2.0 * outputs,
            _ => 0.0,
        };
        kept.add(Some(block), false, numbers);
        if let ("layer_norm1" | "output.LayerNorm", Some(block)) = (inside, kept.blocks.get_mut(block)) {
            block.input = outputs;
        }
    }
    kept
}

/// Of the autoencoder at so many `pixels`, all of it trained or the decoder alone.
pub(crate) fn of_vae(shapes: &Shapes, pixels: f64, nodes: Nodes) -> f64 {
    let levels = vae_levels(shapes);
    let numbers = |(name, shape): (&String, &Vec<usize>)| {
        let area = vae_area(name, pixels, levels);
        let layer = name.strip_suffix(".weight").unwrap_or_default();
        let outputs = shape[0] as f64 * area;
        let inputs = shape.get(1).copied().unwrap_or_default() as f64 * area;
        match layer.rsplit('.').next().unwrap_or_default() {
            "norm1" | "norm2" | "conv_norm_out" => nodes.of_activated_norm() * outputs,
            "conv" if layer.contains("upsamplers") => 4.0 * inputs,
            "conv" | "conv1" | "conv2" | "conv_out" => inputs,
            "group_norm" => outputs,
            "to_q" => inputs + outputs,
            "to_k" | "to_v" => outputs,
            "0" => 2.0 * inputs,
            _ => 0.0,
        }
    };
    shapes.iter().map(numbers).sum()
}

/// The largest that is there at once while an image of so many `pixels` is encoded: a few times the first level's activations.
pub(crate) fn of_encoding(shapes: &Shapes, pixels: f64) -> f64 {
    let width = shapes.get("encoder.conv_in.weight").map_or(0, |shape| shape[0]);
    4.0 * width as f64 * pixels
}

fn vae_levels(shapes: &Shapes) -> usize {
    1 + shapes.keys().filter(|name| name.contains("upsamplers") && name.ends_with("weight")).count()
}

fn vae_area(name: &str, pixels: f64, levels: usize) -> f64 {
    let inner = name.trim_start_matches("encoder.").trim_start_matches("decoder.");
    let at_latents = inner.starts_with("quant") || inner.starts_with("post_quant");
    let level = match name {
        _ if at_latents => levels - 1,
        "encoder.conv_out.weight" | "encoder.conv_norm_out.weight" | "decoder.conv_in.weight" => levels - 1,
        _ => level_of(inner, levels),
    };
    pixels / 4f64.powi(level as i32)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use sdtrain_state_dict::architecture;

    /// What torch 2.11 keeps of the layers of transformers' `BertModel` while all of it is trained, by
    /// `torch.autograd.graph.saved_tensors_hooks` over one prompt, every storage once and weights left out: layers, tokens, numbers.
    const MEASURED: [(usize, f64, f64); 3] = [(1, 32.0, 6912.0), (2, 32.0, 13_824.0), (3, 10.0, 6480.0)];

    #[test]
    fn a_bert_keeps_what_torch_keeps_of_it() {
        for (layers, tokens, measured) in MEASURED {
            let shapes = architecture::text_encoder(&json!({
                "architectures": ["BertModel"], "vocab_size": 50, "hidden_size": 16, "intermediate_size": 40,
                "num_hidden_layers": layers, "max_position_embeddings": 64,
            }))
            .expect("complete");
            let estimate = of_text_encoder(&shapes, tokens);
            let kept = estimate.under(GradientCheckpointing::None);
            // A little more: attention's result is counted twice, which some of torch's kernels lay out so that once is enough.
            assert!(
                (1.0..1.05).contains(&(kept / measured)),
                "{layers} layers, {tokens} tokens: {kept}, not {measured}"
            );
            // Of each layer its input, and once the largest with the gradients that go back through it.
            let inputs = layers as f64 * 16.0 * tokens;
            let again = estimate.under(GradientCheckpointing::All);
            assert_eq!(again, inputs + 2.0 * kept / layers as f64);
        }
    }

    #[test]
    fn prompts_of_seven_windows_keep_seven_times_as_much() {
        let configs = sdtrain_state_dict::PipelineConfigs::sd1();
        let clip = architecture::text_encoder(&configs.text_encoders[0]).expect("complete");
        let [one, seven] =
            [77.0, 539.0].map(|tokens| of_text_encoder(&clip, tokens).under(GradientCheckpointing::None));
        // Nine times the width and four times the feed-forward's for each token and layer.
        assert_eq!((one, seven), (12.0 * 77.0 * (9.0 * 768.0 + 4.0 * 3072.0), 7.0 * one));
        let unet = architecture::unet(&configs.unet).expect("complete");
        let [one, seven] = [77.0, 539.0]
            .map(|tokens| of_unet(&unet, 4096.0, tokens, 4, true, Nodes::Apart).under(GradientCheckpointing::None));
        // Keys and values of the sixteen layers that attend to the prompt.
        let widths = 2.0 * (5.0 * 320.0 + 5.0 * 640.0 + 6.0 * 1280.0);
        assert_eq!(seven - one, 6.0 * 77.0 * widths);
    }
}
