//! The VAE's `config.json`.

use crate::config_json::parse;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The keys of `AutoencoderKL` that this network follows, with diffusers' defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of the pictures.
    pub in_channels: i64,
    /// Channels of the pictures that come back.
    pub out_channels: i64,
    /// `DownEncoderBlock2D`, once a level.
    pub down_block_types: Vec<String>,
    /// `UpDecoderBlock2D`, once a level.
    pub up_block_types: Vec<String>,
    /// Channels of each level, from the outermost.
    pub block_out_channels: Vec<i64>,
    /// Residual blocks of each level of the encoder; the decoder has one more.
    pub layers_per_block: i64,
    /// Channels of the latents.
    pub latent_channels: i64,
    /// Groups of every group norm.
    pub norm_num_groups: i64,
    /// Size of the pictures it was trained on.
    pub sample_size: Value,
    /// Latents are multiplied by this before the UNet sees them.
    pub scaling_factor: f64,
    /// Whether the VAE stays in fp32 where a model computes in 16 bits, as its file says it
    /// ([`sdtrain_state_dict::architecture::vae_stays_in_f32`]). Absent: in fp16 alone, which the VAEs of SD1 and SD2 overflow in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_upcast: Option<bool>,
    /// A 1×1 convolution after the encoder.
    pub use_quant_conv: bool,
    /// A 1×1 convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Attention in the middle of encoder and decoder.
    pub mid_block_add_attention: bool,
}

impl Default for VaeConfig {
    fn default() -> VaeConfig {
        VaeConfig {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: json!(32),
            scaling_factor: 0.18215,
            force_upcast: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl VaeConfig {
    /// From the parsed `config.json`; options that this network does not have are refused by name.
    pub fn from_json(json: &Value) -> Result<VaeConfig> {
        let plain: &[(&str, &[Value])] = &[
            ("act_fn", &[json!("silu"), json!("swish")]),
            ("shift_factor", &[]),
            ("latents_mean", &[]),
            ("latents_std", &[]),
        ];
        let config: VaeConfig = parse("vae/config.json", json, plain)?;
        config.check()?;
        Ok(config)
    }

    /// As diffusers writes it.
    pub fn to_json(&self) -> Value {
        let mut json = serde_json::to_value(self).expect("plain data is JSON");
        json["_class_name"] = json!("AutoencoderKL");
        json["act_fn"] = json!("silu");
        json
    }

    pub(crate) fn check(&self) -> Result<()> {
        let blocks = self.block_out_channels.len();
        let known = |list: &[String], name: &str| list.len() == blocks && list.iter().all(|t| t == name);
        if blocks == 0
            || !known(&self.down_block_types, "DownEncoderBlock2D")
            || !known(&self.up_block_types, "UpDecoderBlock2D")
        {
            return Err(Error::Config(format!(
                "vae/config.json: {blocks} levels need as many `DownEncoderBlock2D` and `UpDecoderBlock2D`; \
                 found {:?} and {:?}",
                self.down_block_types, self.up_block_types
            )));
        }
        Ok(())
    }

    /// How many pixels a latent spans in each direction.
    pub fn downscale_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}
