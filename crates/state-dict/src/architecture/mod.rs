//! Names and shapes of the networks from their `config.json`, without weights and without libtorch: what a file of weights is held against
//! before it is loaded, and what is to be drawn where there is none.

mod control_net;
mod list;

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::{Dtype, is_bert};
use list::List;

pub use control_net::control_net;

/// Parameter names with their shapes.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Keys that say how large something is; no network comes near [`LARGEST_SIZE`].
const SIZES: [&str; 17] = [
    "in_channels",
    "conditioning_channels",
    "conditioning_embedding_out_channels",
    "out_channels",
    "block_out_channels",
    "latent_channels",
    "norm_num_groups",
    "attention_head_dim",
    "num_attention_heads",
    "cross_attention_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "vocab_size",
    "projection_dim",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
];
const LARGEST_SIZE: i64 = 1_000_000;
/// Keys that say how many layers there are.
const COUNTS: [&str; 3] = ["layers_per_block", "transformer_layers_per_block", "num_hidden_layers"];
const MOST_LAYERS: i64 = 100;
/// Residual and transformer blocks of a UNet; SDXL's has 80.
const MOST_BLOCKS: usize = 3000;
/// Levels of a network, or entries of any list with one for each.
const MOST_LEVELS: usize = 16;

const CHANNELS: &str = "block_out_channels";
const DOWN: &str = "down_block_types";

/// That no size in a `config.json` divides by zero or asks for all the memory there is.
///
/// # Errors
/// The key and its value.
pub fn check_sizes(config: &Json) -> Result<(), String> {
    for (key, value) in config.as_object().into_iter().flatten() {
        let largest = match key.as_str() {
            key if SIZES.contains(&key) => LARGEST_SIZE,
            key if COUNTS.contains(&key) => MOST_LAYERS,
            _ => continue,
        };
        let numbers = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for number in numbers.iter().filter(|number| number.is_number()) {
            if !number.as_i64().is_some_and(|number| (1..=largest).contains(&number)) {
                return Err(format!("`{key}` = {number} is not a number from 1 to {largest}"));
            }
        }
        if numbers.len() > MOST_LEVELS {
            return Err(format!("`{key}` has {} entries; {MOST_LEVELS} are the most", numbers.len()));
        }
    }
    Ok(())
}

/// `UNet2DConditionModel`. What its configuration leaves out is as diffusers assumes it.
///
/// # Errors
/// The key that has no meaning here or contradicts another, with its value.
pub fn unet(config: &Json) -> Result<Shapes, String> {
    let (half, mut list) = FirstHalf::of(config)?;
    let FirstHalf { channels, layers, transformers } = half;
    let (first, _) = ends(&channels)?;
    let levels = channels.len();
    let up = attention(config, "up_block_types", ["CrossAttnUpBlock2D", "UpBlock2D"], levels)?;
    for (index, attends) in up.into_iter().enumerate() {
        let block = format!("up_blocks.{index}");
        let level = levels - 1 - index;
        let output = channels[level];
        let below = channels[(level + 1).min(levels - 1)];
        let count = layers[level] + 1;
        for layer in 0..count {
            let input = if layer == 0 { below } else { output };
            let skip = if layer + 1 == count { channels[level.saturating_sub(1)] } else { output };
            list.resnet(&format!("{block}.resnets.{layer}"), input + skip, output);
            if attends {
                list.transformer(&format!("{block}.attentions.{layer}"), output, transformers[level]);
            }
        }
        if level > 0 {
            list.convolution(&format!("{block}.upsamplers.0.conv"), output, output, 3);
        }
    }
    list.norm("conv_norm_out", first);
    list.convolution("conv_out", first, number_or(config, "out_channels", 4)?, 3);
    Ok(list.shapes)
}

/// The levels of a UNet's first half and its middle, which ControlNets have as well.
struct FirstHalf {
    /// Channels of each level.
    channels: Vec<usize>,
    /// ResNet layers of each level.
    layers: Vec<usize>,
    /// Blocks in each transformer of a level.
    transformers: Vec<usize>,
}

impl FirstHalf {
    /// What `config` says of it, with the layers that it is made of.
    fn of(config: &Json) -> Result<(FirstHalf, List), String> {
        check_sizes(config)?;
        let channels = sizes(config, CHANNELS, &[320, 640, 1280, 1280])?;
        let (first, last) = ends(&channels)?;
        let levels = channels.len();
        let context = number_or(config, "cross_attention_dim", 1280)?;
        let layers = per_level(config, "layers_per_block", 2, levels)?;
        let transformers = per_level(config, "transformer_layers_per_block", 1, levels)?;
        let blocks: usize =
            layers.iter().zip(&transformers).map(|(layers, inside)| (2 * layers + 1) * (1 + inside)).sum();
        if blocks > MOST_BLOCKS {
            return Err(format!(
                "`layers_per_block` and `transformer_layers_per_block` ask for {blocks} blocks; {MOST_BLOCKS} are the most"
            ));
        }
        let down = attention(config, DOWN, ["CrossAttnDownBlock2D", "DownBlock2D"], levels)?;
        let linear_projection = flag(config, "use_linear_projection", false)?;
        let mut list = List { shapes: Shapes::new(), time: Some(first * 4), context, linear_projection };

        list.convolution("conv_in", number_or(config, "in_channels", 4)?, first, 3);
        list.linear("time_embedding.linear_1", first, first * 4, true);
        list.linear("time_embedding.linear_2", first * 4, first * 4, true);
        if !config["addition_embed_type"].is_null() {
            if config["projection_class_embeddings_input_dim"].is_null() {
                return Err(
                    "`addition_embed_type` is there without `projection_class_embeddings_input_dim`".to_string()
                );
            }
            let inputs = number_or(config, "projection_class_embeddings_input_dim", 1)?;
            list.linear("add_embedding.linear_1", inputs, first * 4, true);
            list.linear("add_embedding.linear_2", first * 4, first * 4, true);
        }
        for level in 0..levels {
            let block = format!("down_blocks.{level}");
            let output = channels[level];
            for layer in 0..layers[level] {
                let input = if layer == 0 { channels[level.saturating_sub(1)] } else { output };
                list.resnet(&format!("{block}.resnets.{layer}"), input, output);
                if down[level] {
                    list.transformer(&format!("{block}.attentions.{layer}"), output, transformers[level]);
                }
            }
            if level + 1 < levels {
                list.convolution(&format!("{block}.downsamplers.0.conv"), output, output, 3);
            }
        }
        list.resnet("mid_block.resnets.0", last, last);
        list.transformer("mid_block.attentions.0", last, transformers[levels - 1]);
        list.resnet("mid_block.resnets.1", last, last);
        Ok((FirstHalf { channels, layers, transformers }, list))
    }
}

/// Whether a VAE stays in f32 while the model beside it computes in `compute`. `force_upcast` is what its `config.json` says, as
/// diffusers' `AutoencoderKL` has it: SDXL's asks for it, and the one that was mended for fp16 denies it. Those of SD1 and SD2 say
/// nothing as they were published (diffusers of today writes true when it saves them anew) and overflow in fp16 alone
/// (sd-scripts#653, kohya_ss#2674, stable-diffusion-webui#12019).
pub fn vae_stays_in_f32(force_upcast: Option<bool>, compute: Dtype) -> bool {
    match compute {
        Dtype::F16 => force_upcast != Some(false),
        Dtype::Bf16 => force_upcast == Some(true),
        _ => false,
    }
}

/// `AutoencoderKL`.
///
/// # Errors
/// As [`unet`].
pub fn vae(config: &Json) -> Result<Shapes, String> {
    check_sizes(config)?;
    let channels = sizes(config, CHANNELS, &[64])?;
    let (first, last) = ends(&channels)?;
    let levels = channels.len();
    let layers = number_or(config, "layers_per_block", 1)?;
    let latent = number_or(config, "latent_channels", 4)?;
    let attends = flag(config, "mid_block_add_attention", true)?;
    let mut list = List { shapes: Shapes::new(), time: None, context: 0, linear_projection: true };

    list.convolution("encoder.conv_in", number_or(config, "in_channels", 3)?, first, 3);
    for level in 0..levels {
        let block = format!("encoder.down_blocks.{level}");
        for layer in 0..layers {
            let input = if layer == 0 { channels[level.saturating_sub(1)] } else { channels[level] };
            list.resnet(&format!("{block}.resnets.{layer}"), input, channels[level]);
        }
        if level + 1 < levels {
            list.convolution(&format!("{block}.downsamplers.0.conv"), channels[level], channels[level], 3);
        }
    }
    list.vae_middle("encoder", last, attends);
    list.norm("encoder.conv_norm_out", last);
    list.convolution("encoder.conv_out", last, latent * 2, 3);

    list.convolution("decoder.conv_in", latent, last, 3);
    list.vae_middle("decoder", last, attends);
    for index in 0..levels {
        let block = format!("decoder.up_blocks.{index}");
        let level = levels - 1 - index;
        for layer in 0..=layers {
            let input = if layer == 0 { channels[(level + 1).min(levels - 1)] } else { channels[level] };
            list.resnet(&format!("{block}.resnets.{layer}"), input, channels[level]);
        }
        if level > 0 {
            list.convolution(&format!("{block}.upsamplers.0.conv"), channels[level], channels[level], 3);
        }
    }
    list.norm("decoder.conv_norm_out", first);
    list.convolution("decoder.conv_out", first, number_or(config, "out_channels", 3)?, 3);
    if flag(config, "use_quant_conv", true)? {
        list.convolution("quant_conv", latent * 2, latent * 2, 1);
    }
    if flag(config, "use_post_quant_conv", true)? {
        list.convolution("post_quant_conv", latent, latent, 1);
    }
    Ok(list.shapes)
}

/// `BertModel`.
fn bert(config: &Json) -> Result<Shapes, String> {
    let width = number_or(config, "hidden_size", 768)?;
    let inner = number_or(config, "intermediate_size", 3072)?;
    let mut list = List { shapes: Shapes::new(), time: None, context: 0, linear_projection: true };
    for (table, rows) in [
        ("word_embeddings", number_or(config, "vocab_size", 30522)?),
        ("position_embeddings", number_or(config, "max_position_embeddings", 512)?),
        ("token_type_embeddings", number_or(config, "type_vocab_size", 2)?),
    ] {
        list.add(&format!("embeddings.{table}.weight"), vec![rows, width]);
    }
    list.norm("embeddings.LayerNorm", width);
    for layer in 0..number_or(config, "num_hidden_layers", 12)? {
        let layer = format!("encoder.layer.{layer}");
        for matrix in ["self.query", "self.key", "self.value", "output.dense"] {
            list.linear(&format!("{layer}.attention.{matrix}"), width, width, true);
        }
        list.norm(&format!("{layer}.attention.output.LayerNorm"), width);
        list.linear(&format!("{layer}.intermediate.dense"), width, inner, true);
        list.linear(&format!("{layer}.output.dense"), inner, width, true);
        list.norm(&format!("{layer}.output.LayerNorm"), width);
    }
    list.linear("pooler.dense", width, width, true);
    Ok(list.shapes)
}

/// `CLIPTextModel`, `CLIPTextModelWithProjection` or `BertModel`.
///
/// # Errors
/// As [`unet`].
pub fn text_encoder(config: &Json) -> Result<Shapes, String> {
    check_sizes(config)?;
    if is_bert(config) {
        return bert(config);
    }
    let width = number_or(config, "hidden_size", 512)?;
    let inner = number_or(config, "intermediate_size", 2048)?;
    let mut list = List { shapes: Shapes::new(), time: None, context: 0, linear_projection: true };
    list.add("text_model.embeddings.token_embedding.weight", vec![number_or(config, "vocab_size", 49408)?, width]);
    let positions = number_or(config, "max_position_embeddings", 77)?;
    list.add("text_model.embeddings.position_embedding.weight", vec![positions, width]);
    for layer in 0..number_or(config, "num_hidden_layers", 12)? {
        let layer = format!("text_model.encoder.layers.{layer}");
        for matrix in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.linear(&format!("{layer}.self_attn.{matrix}"), width, width, true);
        }
        list.norm(&format!("{layer}.layer_norm1"), width);
        list.norm(&format!("{layer}.layer_norm2"), width);
        list.linear(&format!("{layer}.mlp.fc1"), width, inner, true);
        list.linear(&format!("{layer}.mlp.fc2"), inner, width, true);
    }
    list.norm("text_model.final_layer_norm", width);
    if config["architectures"][0] == "CLIPTextModelWithProjection" {
        list.linear("text_projection", width, number_or(config, "projection_dim", 512)?, false);
    }
    Ok(list.shapes)
}

fn number_or(config: &Json, key: &str, otherwise: usize) -> Result<usize, String> {
    match &config[key] {
        Json::Null => Ok(otherwise),
        value => size(key, value),
    }
}

fn size(key: &str, value: &Json) -> Result<usize, String> {
    let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
    number
        .filter(|number| *number <= LARGEST_SIZE as usize)
        .ok_or_else(|| format!("`{key}` is {}, which is no size", shown(value)))
}

fn sizes(config: &Json, key: &str, otherwise: &[usize]) -> Result<Vec<usize>, String> {
    match &config[key] {
        Json::Null => Ok(otherwise.to_vec()),
        Json::Array(list) => list.iter().map(|value| size(key, value)).collect(),
        value => Err(format!("`{key}` is {}, not a list of sizes", shown(value))),
    }
}

/// Channels of the outermost level and of the innermost.
fn ends(channels: &[usize]) -> Result<(usize, usize), String> {
    channels.first().copied().zip(channels.last().copied()).ok_or_else(|| "`block_out_channels` is empty".to_string())
}

fn flag(config: &Json, key: &str, otherwise: bool) -> Result<bool, String> {
    match &config[key] {
        Json::Null => Ok(otherwise),
        value => value.as_bool().ok_or_else(|| format!("`{key}` is {}, neither true nor false", shown(value))),
    }
}

/// One number for all levels, or a list with one for each.
fn per_level(config: &Json, key: &str, otherwise: usize, levels: usize) -> Result<Vec<usize>, String> {
    match &config[key] {
        Json::Array(list) if list.len() != levels => {
            Err(format!("`{key}` has {} entries for {levels} levels", list.len()))
        }
        Json::Array(list) => list.iter().map(|value| size(key, value)).collect(),
        _ => Ok(vec![number_or(config, key, otherwise)?; levels]),
    }
}

/// For each level whether its block is of the kind `with` attention, or of the one `without`.
fn attention(config: &Json, key: &str, [with, without]: [&str; 2], levels: usize) -> Result<Vec<bool>, String> {
    let kinds = match &config[key] {
        // diffusers': all but the innermost level have attention.
        Json::Null if levels == 4 => {
            return Ok((0..levels).map(|block| if key == DOWN { block + 1 < levels } else { block > 0 }).collect());
        }
        Json::Array(kinds) => kinds,
        Json::Null => return Err(format!("`{key}` is missing: a list of the names of {levels} blocks")),
        other => return Err(format!("`{key}` is {}, not a list of names", shown(other))),
    };
    if kinds.len() != levels {
        return Err(format!("`{key}` has {} entries for {levels} levels", kinds.len()));
    }
    let attends = |kind: &Json| match kind.as_str() {
        Some(kind) if kind == with => Ok(true),
        Some(kind) if kind == without => Ok(false),
        _ => {
            Err(format!("`{key}` has the block {}, which is not supported; known: `{with}`, `{without}`", shown(kind)))
        }
    };
    kinds.iter().map(attends).collect()
}

fn shown(value: &Json) -> String {
    crate::error::shown(&value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn count(shapes: &Shapes) -> usize {
        shapes.values().map(|shape| shape.iter().product::<usize>()).sum()
    }

    // The published sizes of Stable Diffusion 1.5's three networks.

    #[test]
    fn the_unet_of_sd15_has_its_known_number_of_parameters() {
        let shapes = unet(&json!({
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 768,
            "layers_per_block": 2,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        }))
        .expect("complete");
        assert_eq!((shapes.len(), count(&shapes)), (686, 859_520_964));
    }

    #[test]
    fn what_a_configuration_leaves_out_is_as_diffusers_assumes_it() {
        let said = unet(&json!({
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 1280,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        }));
        assert!(unet(&json!({})) == said && said.is_ok());
    }

    #[test]
    fn the_vae_of_sd15_has_its_known_number_of_parameters() {
        let shapes =
            vae(&json!({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2})).expect("complete");
        assert_eq!((shapes.len(), count(&shapes)), (248, 83_653_863));
    }

    #[test]
    fn the_text_encoder_of_sd15_has_its_known_number_of_parameters() {
        let shapes = text_encoder(&json!({
            "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        }))
        .expect("complete");
        assert_eq!((shapes.len(), count(&shapes)), (196, 123_060_480));
    }

    #[test]
    fn the_bert_of_taiyi_has_its_known_number_of_parameters() {
        let shapes = text_encoder(&json!({
            "architectures": ["BertModel"], "vocab_size": 21128, "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "max_position_embeddings": 512, "type_vocab_size": 2,
        }))
        .expect("complete");
        assert_eq!(count(&shapes), 102_267_648);
    }

    #[test]
    fn the_networks_of_sdxl_have_their_known_numbers_of_parameters() {
        let configs = crate::PipelineConfigs::sdxl(false);
        let shapes = unet(&configs.unet).expect("complete");
        assert_eq!((shapes.len(), count(&shapes)), (1680, 2_567_463_684));
        let shapes = configs.text_encoders.iter().map(|config| text_encoder(config).expect("complete"));
        assert_eq!(shapes.map(|shapes| count(&shapes)).collect::<Vec<_>>(), [123_060_480, 694_659_840]);
    }

    #[test]
    fn what_has_no_meaning_is_named() {
        assert!(unet(&json!({"block_out_channels": [320]})).unwrap_err().contains("`down_block_types` is missing"));
        let unet_of = |key: &str, value: Json| unet(&json!({ key: value })).unwrap_err();
        assert!(unet_of("down_block_types", json!(["DownBlock2D"])).contains("has 1 entries for 4 levels"));
        assert!(unet_of("up_block_types", json!(["A", 1, 2, 3])).contains("the block \"A\", which is not supported"));
        let many = json!({"layers_per_block": 100, "transformer_layers_per_block": 100});
        assert!(unet(&many).unwrap_err().contains("ask for 81204 blocks"));
        assert!(unet_of("addition_embed_type", json!("text_time")).contains("`projection_class_embeddings_input_dim`"));
        let vae_of = |key: &str, value: Json| vae(&json!({"block_out_channels": [32, 64], key: value})).unwrap_err();
        assert!(vae_of("layers_per_block", json!(1_000_000_000_000i64)).contains("`layers_per_block` = 1000000000000"));
        assert!(vae_of("latent_channels", json!("4")).contains("`latent_channels` is \"4\", which is no size"));
        assert!(vae_of("use_quant_conv", json!(1)).contains("`use_quant_conv` is 1"));
        assert!(vae_of("block_out_channels", json!([])).contains("is empty"));
    }
}
