//! Which autoencoder this is, as far as encoding is concerned.

use crate::error::{Error, Result};
use sdtrain_feature_cache::EncoderIdentity;
use sdtrain_model::vae::VaeConfig;
use sdtrain_model::{Frozen, StableDiffusion, dtype_of};
use sdtrain_torch::tensor_to_bytes;

/// The identity of the model's encoder: equal for equal weights and settings, wherever they were read from. A decoder makes no
/// difference, so VAEs that differ in nothing else share their latents.
pub(super) fn encoder_identity(model: &StableDiffusion) -> Result<EncoderIdentity> {
    // Weights that were given back would make one name for all encoders.
    model.ensure_loaded(Frozen::Vae)?;
    // Taken apart without `..`, so that a new key is thought about here. Latents are kept unscaled.
    let VaeConfig {
        in_channels,
        down_block_types,
        block_out_channels,
        layers_per_block,
        latent_channels,
        norm_num_groups,
        use_quant_conv,
        mid_block_add_attention,
        out_channels: _,
        up_block_types: _,
        sample_size: _,
        scaling_factor: _,
        force_upcast: _,
        use_post_quant_conv: _,
    } = model.vae.config();
    let settings = serde_json::json!([
        in_channels,
        down_block_types,
        block_out_channels,
        layers_per_block,
        latent_channels,
        norm_num_groups,
        use_quant_conv,
        mid_block_add_attention,
    ]);
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(settings.to_string().as_bytes());
    let mut compute = None;
    let encodes = |name: &str| name.starts_with("encoder.") || name.starts_with("quant_conv.");
    for (name, weight) in model.vae.parameters().iter().filter(|(name, _)| encodes(name)) {
        compute = compute.or(dtype_of(weight.kind()));
        field(name.as_bytes());
        field(format!("{:?}", weight.size()).as_bytes());
        field(&tensor_to_bytes(weight)?);
    }
    let compute = compute.ok_or(Error::NoEncoder { network: "autoencoder" })?;
    Ok(EncoderIdentity {
        digest: *hasher.finalize().as_bytes(),
        compute,
        latent_channels: *latent_channels as usize,
        downscale_factor: model.downscale_factor(),
    })
}
