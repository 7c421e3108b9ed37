//! The denoiser (diffusers: `UNet2DConditionModel`).

mod blocks;
mod config;

pub use blocks::{BlockConfig, Conditions, DownBlock, MidBlock, UpBlock};
pub use config::UNetConfig;

use crate::builder::Builder;
use crate::conditions::{AddedConditions, Conditions as AllConditions};
use crate::error::Result;
use crate::layers::{Conv2d, GroupNorm, TimestepEmbedding, sinusoidal_embedding};
use crate::parameters::Parameters;
use sdtrain_recipe::GradientCheckpointing;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// How many numbers say where a picture comes from: three pairs, of its original size, the crop and the size that is seen; or with one
/// score in place of the last pair.
pub const SIZE_IDS: [usize; 2] = [5, 6];

/// Predicts noise (or velocity, or the sample) from noisy latents, timestep and text.
#[derive(Debug)]
pub struct UNet2DConditionModel {
    config: UNetConfig,
    parameters: Parameters,
    conv_in: Rc<Conv2d>,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<TimestepEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Rc<Conv2d>,
}

impl UNet2DConditionModel {
    /// Builds the network of `config` from the root builder `b`.
    pub fn new(b: Builder, config: &UNetConfig) -> Result<UNet2DConditionModel> {
        config.check()?;
        let channels = &config.block_out_channels;
        let first = channels[0];
        let temb_channels = first * 4;
        let last = channels.len() - 1;
        let conv_in = b.at("conv_in").conv2d(config.in_channels, first, 3, 1, 1)?;
        let time_embedding = TimestepEmbedding::new(&b.at("time_embedding"), first, temb_channels)?;
        let added = config.projection_class_embeddings_input_dim.filter(|_| config.adds_text_and_sizes());
        let add_embedding =
            added.map(|width| TimestepEmbedding::new(&b.at("add_embedding"), width, temb_channels)).transpose()?;
        let down_blocks = (0..channels.len())
            .map(|level| DownBlock::new(&b.at("down_blocks").at(level), &config.down_block(level)?))
            .collect::<Result<_>>()?;
        let mid_block = MidBlock::new(&b.at("mid_block"), &config.mid_block())?;
        let up_blocks = (0..=last)
            .map(|i| {
                let outer_channels = channels[(last - i).saturating_sub(1)];
                UpBlock::new(&b.at("up_blocks").at(i), &config.up_block(i)?, outer_channels)
            })
            .collect::<Result<_>>()?;
        let conv_norm_out = b.at("conv_norm_out").group_norm(config.norm_num_groups, first, config.norm_eps)?;
        let conv_out = b.at("conv_out").conv2d(first, config.out_channels, 3, 1, 1)?;
        Ok(UNet2DConditionModel {
            config: config.clone(),
            parameters: b.finish()?,
            conv_in,
            time_embedding,
            add_embedding,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out,
            conv_out,
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// Its parameters and layers.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// # Shapes
    /// sample: `[batch, in_channels, height, width]` in the compute dtype; timesteps: `[batch]`, integers or floats;
    /// conditions: text states alone, `[batch, tokens, cross_attention_dim]`, or with what [`UNetConfig::adds_text_and_sizes`] asks
    /// for → `[batch, out_channels, height, width]`.
    ///
    /// Each residual block and each transformer of the blocks that `gradient_checkpointing` names is run again in backward.
    pub fn forward(
        &self,
        sample: &Tensor,
        timesteps: &Tensor,
        conditions: impl Into<AllConditions>,
        gradient_checkpointing: impl Into<GradientCheckpointing>,
    ) -> Tensor {
        let gradient_checkpointing = gradient_checkpointing.into();
        let kind = sample.kind();
        let config = &self.config;
        let sinusoids =
            sinusoidal_embedding(timesteps, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift);
        let AllConditions { encoder_hidden_states, added } = conditions.into();
        let mut temb = self.time_embedding.forward(&sinusoids.to_kind(kind));
        if let Some(add_embedding) = &self.add_embedding {
            let added =
                added.expect("a model that is told of sizes is loaded with a text encoder that has a projection");
            temb += add_embedding.forward(&self.joined(&added).to_kind(kind));
        }
        let context = encoder_hidden_states.to_kind(kind);
        let all = gradient_checkpointing.is_everywhere();
        let inside = Conditions { temb: &temb, context: &context, gradient_checkpointing: all };
        let at_full_size = Conditions { gradient_checkpointing: gradient_checkpointing.is_on(), ..inside };
        let mut hidden = self.conv_in.forward(sample);
        let mut skips = vec![hidden.shallow_clone()];
        for (level, block) in self.down_blocks.iter().enumerate() {
            let conditions = if level == 0 { &at_full_size } else { &inside };
            hidden = block.forward(hidden, conditions, &mut skips);
        }
        hidden = self.mid_block.forward(hidden, &inside);
        for (index, block) in self.up_blocks.iter().enumerate() {
            let conditions = if index + 1 == self.up_blocks.len() { &at_full_size } else { &inside };
            hidden = block.forward(hidden, conditions, &mut skips);
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&hidden)).contiguous().to_kind(kind)
    }
}

impl UNet2DConditionModel {
    /// The prompt's vector and the sinusoids of each size, one behind the other: `[batch, projection_class_embeddings_input_dim]`, f32.
    fn joined(&self, AddedConditions { text_embeds, time_ids }: &AddedConditions) -> Tensor {
        let config = &self.config;
        let length = config.addition_time_embed_dim.unwrap_or_default();
        let sinusoids =
            sinusoidal_embedding(&time_ids.flatten(0, -1), length, config.flip_sin_to_cos, config.freq_shift);
        let batch = time_ids.size()[0];
        Tensor::cat(&[text_embeds.to_kind(Kind::Float), sinusoids.reshape([batch, -1])], 1)
    }
}

/// Timesteps of a whole batch at the same step, as the network takes them: `[batch]` f32.
pub fn repeated_timestep(timestep: f64, batch: i64, device: tch::Device) -> Tensor {
    Tensor::full([batch], timestep, (Kind::Float, device))
}
