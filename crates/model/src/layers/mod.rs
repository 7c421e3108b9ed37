//! The layers that all networks are made of.

mod adapter_slot;
mod attention;
mod conv2d;
mod embedding;
mod linear;
mod norm;
mod resnet_block;
mod sampling_blocks;
mod timestep_embedding;
mod transformer_block;

pub use adapter_slot::AdapterSlot;
pub use attention::{Attention, AttentionConfig, SpatialAttention};
pub(crate) use attention::{merge_heads, scaled_dot_product_attention, split_heads};
pub use conv2d::Conv2d;
pub use embedding::Embedding;
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
pub use resnet_block::{ResnetBlock2D, ResnetConfig};
pub use sampling_blocks::{Downsample2D, Upsample2D};
pub use timestep_embedding::{TimestepEmbedding, sinusoidal_embedding};
pub use transformer_block::{BasicTransformerBlock, Transformer2DModel, TransformerConfig};

use tch::{Kind, Tensor};

/// `parameter` in the dtype of the activations. Trained parameters are f32 and are cast at every use, so that their
/// gradients arrive in f32; frozen ones already have the compute dtype.
pub(crate) fn as_kind(parameter: &Tensor, kind: Kind) -> Tensor {
    if parameter.kind() == kind { parameter.shallow_clone() } else { parameter.to_kind(kind) }
}
