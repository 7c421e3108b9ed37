//! `ControlNetModel`: the first half of a UNet, what reads the control image before it, and convolutions of one pixel behind each of its
//! states, which begin with zeros (Zhang et al. 2023, arXiv:2302.05543).

use serde_json::Value as Json;

use super::{FirstHalf, Shapes, ends, number_or, shown, sizes};

/// Channels of the convolutions that bring a control image to the size of the latents.
const EMBEDDING: &str = "conditioning_embedding_out_channels";

/// `ControlNetModel`. What its configuration leaves out is as diffusers assumes it.
///
/// # Errors
/// As [`super::unet`].
pub fn control_net(config: &Json) -> Result<Shapes, String> {
    const MIDDLE: &str = "UNetMidBlock2DCrossAttn";
    if config["mid_block_type"].as_str().is_some_and(|kind| kind != MIDDLE) {
        let kind = shown(&config["mid_block_type"]);
        return Err(format!("`mid_block_type` is {kind}, which is not supported; known: `{MIDDLE}`"));
    }
    let (FirstHalf { channels, layers, .. }, mut list) = FirstHalf::of(config)?;
    let (first, last) = ends(&channels)?;

    let embedding = sizes(config, EMBEDDING, &[16, 32, 96, 256])?;
    let (Some(&narrow), Some(&wide)) = (embedding.first(), embedding.last()) else {
        return Err(format!("`{EMBEDDING}` is empty"));
    };
    let name = |layer: &str| format!("controlnet_cond_embedding.{layer}");
    list.convolution(&name("conv_in"), number_or(config, "conditioning_channels", 3)?, narrow, 3);
    for (level, pair) in embedding.windows(2).enumerate() {
        list.convolution(&name(&format!("blocks.{}", 2 * level)), pair[0], pair[0], 3);
        list.convolution(&name(&format!("blocks.{}", 2 * level + 1)), pair[0], pair[1], 3);
    }
    list.convolution(&name("conv_out"), wide, first, 3);

    let mut states = vec![first];
    for (level, (&output, &count)) in channels.iter().zip(&layers).enumerate() {
        // The downsampling behind a level has a state, too; the innermost level has none.
        let downsampling = usize::from(level + 1 < channels.len());
        states.extend(std::iter::repeat_n(output, count + downsampling));
    }
    for (index, width) in states.into_iter().enumerate() {
        list.convolution(&format!("controlnet_down_blocks.{index}"), width, width, 1);
    }
    list.convolution("controlnet_mid_block", last, last, 1);
    Ok(list.shapes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_no_meaning_is_named() {
        let refused = |key: &str, value: Json| control_net(&json!({ key: value })).unwrap_err();
        assert!(refused(EMBEDDING, json!([])).contains("`conditioning_embedding_out_channels` is empty"));
        assert!(refused(EMBEDDING, json!(16)).contains("`conditioning_embedding_out_channels` is 16, not a list"));
        assert!(refused(EMBEDDING, json!([16, 0])).contains("= 0 is not a number from 1"));
        assert!(
            refused("mid_block_type", json!("UNetMidBlock2D")).contains("\"UNetMidBlock2D\", which is not supported")
        );
        assert!(refused("block_out_channels", json!([])).contains("`block_out_channels` is empty"));
    }

    #[test]
    fn an_image_at_the_size_of_the_latents_goes_through_fewer_convolutions() {
        let shapes = control_net(&json!({ EMBEDDING: [8], "conditioning_channels": 1 })).expect("complete");
        let of_image = shapes.iter().filter(|(name, _)| name.starts_with("controlnet_cond_embedding."));
        let weights = of_image.filter(|(name, _)| name.ends_with(".weight")).map(|(_, shape)| &shape[..]);
        assert_eq!(weights.collect::<Vec<_>>(), [[8, 1, 3, 3], [320, 8, 3, 3]]);
    }
}
