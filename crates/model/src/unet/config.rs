//! The UNet's `config.json`.

use super::{BlockConfig, SIZE_IDS};
use crate::config_json::{PerBlock, parse};
use crate::error::{Error, Result};
use crate::layers::TransformerConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The keys of `UNet2DConditionModel` that this network follows, with diffusers' defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    /// Height and width of the latents it was trained on: one number, or `[height, width]`.
    pub sample_size: Value,
    /// Channels in: 4, or 8 and 9 for image-conditioned variants.
    pub in_channels: i64,
    /// Channels out.
    pub out_channels: i64,
    /// Cosines come first in the timestep embedding.
    pub flip_sin_to_cos: bool,
    /// Shift of the timestep embedding's frequencies.
    pub freq_shift: f64,
    /// Kinds of the blocks on the way down: `CrossAttnDownBlock2D` or `DownBlock2D`.
    pub down_block_types: Vec<String>,
    /// Kinds of the blocks on the way up: `CrossAttnUpBlock2D` or `UpBlock2D`.
    pub up_block_types: Vec<String>,
    /// Channels of each level, from the outermost.
    pub block_out_channels: Vec<i64>,
    /// Residual blocks of each level.
    pub layers_per_block: PerBlock,
    /// Groups of every group norm.
    pub norm_num_groups: i64,
    /// Epsilon of the residual blocks' norms.
    pub norm_eps: f64,
    /// Size of the text states.
    pub cross_attention_dim: i64,
    /// Number of transformer blocks in each attention.
    pub transformer_layers_per_block: PerBlock,
    /// Number of heads: diffusers keeps this name for files that say it so.
    pub attention_head_dim: PerBlock,
    /// Number of heads, where a newer file gives it under its right name.
    pub num_attention_heads: Option<PerBlock>,
    /// The attentions' projections are linear instead of 1×1 convolutions.
    pub use_linear_projection: bool,
    /// What joins the timestep's embedding: nothing, or `text_time`, a vector of the prompt and the picture's sizes (SDXL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addition_embed_type: Option<String>,
    /// Length of the sinusoids of each size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addition_time_embed_dim: Option<i64>,
    /// Length of the prompt's vector and all sinusoids together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection_class_embeddings_input_dim: Option<i64>,
    /// Attention scores in f32 (SD 2.1). Kept for the file: fused attention has them in f32 anyway, here and in diffusers.
    pub upcast_attention: bool,
}

impl Default for UNetConfig {
    fn default() -> UNetConfig {
        let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        const CROSS_DOWN: &str = "CrossAttnDownBlock2D";
        const CROSS_UP: &str = "CrossAttnUpBlock2D";
        UNetConfig {
            sample_size: Value::Null,
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: names(&[CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, "DownBlock2D"]),
            up_block_types: names(&["UpBlock2D", CROSS_UP, CROSS_UP, CROSS_UP]),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerBlock::All(2),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1280,
            transformer_layers_per_block: PerBlock::All(1),
            attention_head_dim: PerBlock::All(8),
            num_attention_heads: None,
            use_linear_projection: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            upcast_attention: false,
        }
    }
}

impl UNetConfig {
    /// From the parsed `config.json`; options that this network does not have are refused by name.
    pub fn from_json(json: &Value) -> Result<UNetConfig> {
        let plain: &[(&str, &[Value])] = &[
            ("act_fn", &[json!("silu"), json!("swish")]),
            ("mid_block_type", &[json!("UNetMidBlock2DCrossAttn")]),
            ("only_cross_attention", &[json!(false)]),
            ("dual_cross_attention", &[json!(false)]),
            ("center_input_sample", &[json!(false)]),
            ("downsample_padding", &[json!(1)]),
            ("mid_block_scale_factor", &[json!(1), json!(1.0)]),
            ("dropout", &[json!(0), json!(0.0)]),
            ("class_embed_type", &[]),
            ("num_class_embeds", &[]),
            ("addition_embed_type", &[json!("text_time")]),
            ("encoder_hid_dim_type", &[]),
            ("resnet_time_scale_shift", &[json!("default")]),
            ("resnet_skip_time_act", &[json!(false)]),
            ("resnet_out_scale_factor", &[json!(1), json!(1.0)]),
            ("time_embedding_type", &[json!("positional")]),
            ("time_embedding_dim", &[]),
            ("time_embedding_act_fn", &[]),
            ("timestep_post_act", &[]),
            ("time_cond_proj_dim", &[]),
            ("conv_in_kernel", &[json!(3)]),
            ("conv_out_kernel", &[json!(3)]),
            ("attention_type", &[json!("default")]),
            ("class_embeddings_concat", &[json!(false)]),
            ("mid_block_only_cross_attention", &[json!(false)]),
            ("cross_attention_norm", &[]),
            ("reverse_transformer_layers_per_block", &[]),
        ];
        let config: UNetConfig = parse("unet/config.json", json, plain)?;
        config.check()?;
        Ok(config)
    }

    /// As diffusers writes it.
    pub fn to_json(&self) -> Value {
        let mut json = serde_json::to_value(self).expect("plain data is JSON");
        json["_class_name"] = json!("UNet2DConditionModel");
        json["mid_block_type"] = json!("UNetMidBlock2DCrossAttn");
        json["act_fn"] = json!("silu");
        json["downsample_padding"] = json!(1);
        json
    }

    pub(crate) fn check(&self) -> Result<()> {
        let blocks = self.block_out_channels.len();
        if blocks == 0 || self.down_block_types.len() != blocks || self.up_block_types.len() != blocks {
            return Err(Error::Config(format!(
                "unet/config.json: {blocks} `block_out_channels` for {} down and {} up blocks",
                self.down_block_types.len(),
                self.up_block_types.len()
            )));
        }
        if self.adds_text_and_sizes() && self.embeddings_input().is_none() {
            return Err(Error::Config(
                "unet/config.json: `addition_embed_type` is \"text_time\", so `addition_time_embed_dim` and a larger \
                 `projection_class_embeddings_input_dim` must be there"
                    .into(),
            ));
        }
        self.layers_per_block.check("layers_per_block", blocks)?;
        self.transformer_layers_per_block.check("transformer_layers_per_block", blocks)?;
        self.heads_list().check("attention_head_dim", blocks)?;
        for (level, channels) in self.block_out_channels.iter().enumerate() {
            let heads = self.heads(level);
            if heads < 1 || channels % heads != 0 {
                return Err(Error::Config(format!(
                    "unet/config.json: {channels} channels of level {level} do not divide into {heads} heads"
                )));
            }
        }
        Ok(())
    }

    /// Whether a vector of the prompt and the picture's sizes join the timestep's embedding.
    pub fn adds_text_and_sizes(&self) -> bool {
        self.addition_embed_type.as_deref() == Some("text_time")
    }

    /// How many numbers it is told of a picture beside a prompt's vector of length `pooled`: 6, or the 5 of SDXL's refiner. None where it
    /// takes no vector of that length.
    pub fn time_ids(&self, pooled: i64) -> Option<usize> {
        let (all, each) = self.embeddings_input().filter(|_| self.adds_text_and_sizes())?;
        SIZE_IDS.into_iter().find(|&ids| pooled + ids as i64 * each == all)
    }

    /// Length of what joins the timestep's embedding, and that of each number's sinusoids: with room for a prompt's vector.
    fn embeddings_input(&self) -> Option<(i64, i64)> {
        let (all, each) = (self.projection_class_embeddings_input_dim?, self.addition_time_embed_dim?);
        (each > 0 && each.checked_mul(SIZE_IDS[0] as i64)? < all).then_some((all, each))
    }

    fn heads_list(&self) -> &PerBlock {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim)
    }

    /// Number of heads at `level`, counted from the outermost.
    pub fn heads(&self, level: usize) -> i64 {
        self.heads_list().at(level)
    }

    /// The block at `level` on the way down.
    pub fn down_block(&self, level: usize) -> Result<BlockConfig> {
        let channels = &self.block_out_channels;
        let kind = &self.down_block_types[level];
        let attention = has_attention(kind, "CrossAttnDownBlock2D", "DownBlock2D")?;
        Ok(BlockConfig {
            in_channels: channels[level.saturating_sub(1)],
            layers: self.layers_per_block.at(level),
            resample: level + 1 < channels.len(),
            ..self.block(level, attention)
        })
    }

    /// The block in the middle.
    pub fn mid_block(&self) -> BlockConfig {
        self.block(self.block_out_channels.len() - 1, true)
    }

    /// Block `index` on the way up, which works at level `last - index`.
    pub fn up_block(&self, index: usize) -> Result<BlockConfig> {
        let channels = &self.block_out_channels;
        let last = channels.len() - 1;
        let level = last - index;
        let attention = has_attention(&self.up_block_types[index], "CrossAttnUpBlock2D", "UpBlock2D")?;
        Ok(BlockConfig {
            in_channels: channels[(level + 1).min(last)],
            layers: self.layers_per_block.at(level) + 1,
            resample: index < last,
            ..self.block(level, attention)
        })
    }

    /// What every block at `level` has: two layers that keep the level's channels and its size.
    fn block(&self, level: usize, attention: bool) -> BlockConfig {
        let channels = self.block_out_channels[level];
        let transformer = TransformerConfig {
            channels,
            heads: self.heads(level),
            layers: self.transformer_layers_per_block.at(level),
            cross_attention_dim: self.cross_attention_dim,
            groups: self.norm_num_groups,
            use_linear_projection: self.use_linear_projection,
        };
        BlockConfig {
            in_channels: channels,
            out_channels: channels,
            temb_channels: self.block_out_channels[0] * 4,
            layers: 2,
            groups: self.norm_num_groups,
            eps: self.norm_eps,
            transformer: attention.then_some(transformer),
            resample: false,
        }
    }
}

/// Whether the block kind `name` has attention: `with` or `without` are its two known names.
fn has_attention(name: &str, with: &str, without: &str) -> Result<bool> {
    match name {
        _ if name == with => Ok(true),
        _ if name == without => Ok(false),
        _ => Err(Error::Config(format!(
            "unet/config.json: block type `{name}` is not supported; known: `{with}`, `{without}`"
        ))),
    }
}
