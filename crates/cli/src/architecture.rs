//! Names and shapes of the networks from their `config.json`, without weights and without libtorch.
//!
//! The engine builds the networks; this list serves `check` where a model is to be trained from scratch.

use std::collections::BTreeMap;

use sdtrain_state_dict::is_bert;
use serde_json::Value as Json;

/// Parameter names with their shapes.
pub(crate) type Shapes = BTreeMap<String, Vec<usize>>;

/// `UNet2DConditionModel`; nothing where the configuration lacks a key or names blocks of another kind.
pub(crate) fn unet(config: &Json) -> Option<Shapes> {
    let channels = numbers(&config["block_out_channels"])?;
    let (first, last) = (*channels.first()?, *channels.last()?);
    let levels = channels.len();
    let context = number(&config["cross_attention_dim"])?;
    let layers = |level: usize| per_level(&config["layers_per_block"], level).unwrap_or(2);
    let transformers = |level: usize| per_level(&config["transformer_layers_per_block"], level).unwrap_or(1);
    let attends = |list: &str, block: usize| Some(config[list][block].as_str()?.starts_with("CrossAttn"));
    let linear_projection = config["use_linear_projection"].as_bool().unwrap_or(false);
    let mut list = List { shapes: Shapes::new(), time: Some(first * 4), context, linear_projection };

    list.convolution("conv_in", number(&config["in_channels"]).unwrap_or(4), first, 3);
    list.linear("time_embedding.linear_1", first, first * 4, true);
    list.linear("time_embedding.linear_2", first * 4, first * 4, true);
    if !config["addition_embed_type"].is_null() {
        list.linear(
            "add_embedding.linear_1",
            number(&config["projection_class_embeddings_input_dim"])?,
            first * 4,
            true,
        );
        list.linear("add_embedding.linear_2", first * 4, first * 4, true);
    }
    for level in 0..levels {
        let block = format!("down_blocks.{level}");
        let output = channels[level];
        for layer in 0..layers(level) {
            let input = if layer == 0 { channels[level.saturating_sub(1)] } else { output };
            list.resnet(&format!("{block}.resnets.{layer}"), input, output);
            if attends("down_block_types", level)? {
                list.transformer(&format!("{block}.attentions.{layer}"), output, transformers(level));
            }
        }
        if level + 1 < levels {
            list.convolution(&format!("{block}.downsamplers.0.conv"), output, output, 3);
        }
    }
    list.resnet("mid_block.resnets.0", last, last);
    list.transformer("mid_block.attentions.0", last, transformers(levels - 1));
    list.resnet("mid_block.resnets.1", last, last);
    for index in 0..levels {
        let block = format!("up_blocks.{index}");
        let level = levels - 1 - index;
        let output = channels[level];
        let below = channels[(level + 1).min(levels - 1)];
        let count = layers(level) + 1;
        for layer in 0..count {
            let input = if layer == 0 { below } else { output };
            let skip = if layer + 1 == count { channels[level.saturating_sub(1)] } else { output };
            list.resnet(&format!("{block}.resnets.{layer}"), input + skip, output);
            if attends("up_block_types", index)? {
                list.transformer(&format!("{block}.attentions.{layer}"), output, transformers(level));
            }
        }
        if level > 0 {
            list.convolution(&format!("{block}.upsamplers.0.conv"), output, output, 3);
        }
    }
    list.norm("conv_norm_out", first);
    list.convolution("conv_out", first, number(&config["out_channels"]).unwrap_or(4), 3);
    Some(list.shapes)
}

/// `AutoencoderKL`.
pub(crate) fn vae(config: &Json) -> Option<Shapes> {
    let channels = numbers(&config["block_out_channels"])?;
    let (first, last) = (*channels.first()?, *channels.last()?);
    let levels = channels.len();
    let layers = number(&config["layers_per_block"]).unwrap_or(1);
    let latent = number(&config["latent_channels"]).unwrap_or(4);
    let mut list = List { shapes: Shapes::new(), time: None, context: 0, linear_projection: true };

    list.convolution("encoder.conv_in", number(&config["in_channels"]).unwrap_or(3), first, 3);
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
    list.vae_middle("encoder", last);
    list.norm("encoder.conv_norm_out", last);
    list.convolution("encoder.conv_out", last, latent * 2, 3);

    list.convolution("decoder.conv_in", latent, last, 3);
    list.vae_middle("decoder", last);
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
    list.convolution("decoder.conv_out", first, number(&config["out_channels"]).unwrap_or(3), 3);
    list.convolution("quant_conv", latent * 2, latent * 2, 1);
    list.convolution("post_quant_conv", latent, latent, 1);
    Some(list.shapes)
}

/// `BertModel`.
fn bert(config: &Json) -> Option<Shapes> {
    let width = number(&config["hidden_size"])?;
    let inner = number(&config["intermediate_size"])?;
    let mut list = List { shapes: Shapes::new(), time: None, context: 0, linear_projection: true };
    for (table, rows) in [
        ("word_embeddings", number(&config["vocab_size"])?),
        ("position_embeddings", number(&config["max_position_embeddings"])?),
        ("token_type_embeddings", number(&config["type_vocab_size"]).unwrap_or(2)),
    ] {
        list.add(&format!("embeddings.{table}.weight"), vec![rows, width]);
    }
    list.norm("embeddings.LayerNorm", width);
    for layer in 0..number(&config["num_hidden_layers"])? {
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
    Some(list.shapes)
}

/// `CLIPTextModel`, `CLIPTextModelWithProjection` or `BertModel`.
pub(crate) fn text_encoder(config: &Json) -> Option<Shapes> {
    if is_bert(config) {
        return bert(config);
    }
    let width = number(&config["hidden_size"])?;
    let inner = number(&config["intermediate_size"])?;
    let mut list = List { shapes: Shapes::new(), time: None, context: 0, linear_projection: true };
    list.add("text_model.embeddings.token_embedding.weight", vec![number(&config["vocab_size"])?, width]);
    let positions = number(&config["max_position_embeddings"]).unwrap_or(77);
    list.add("text_model.embeddings.position_embedding.weight", vec![positions, width]);
    for layer in 0..number(&config["num_hidden_layers"])? {
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
        list.linear("text_projection", width, number(&config["projection_dim"])?, false);
    }
    Some(list.shapes)
}

/// The shapes so far, and what all blocks of a network share.
struct List {
    shapes: Shapes,
    /// Width of the timestep embedding; a VAE has none.
    time: Option<usize>,
    context: usize,
    linear_projection: bool,
}

impl List {
    fn add(&mut self, name: &str, shape: Vec<usize>) {
        self.shapes.insert(name.to_owned(), shape);
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) {
        self.add(&format!("{name}.weight"), vec![outputs, inputs]);
        if bias {
            self.add(&format!("{name}.bias"), vec![outputs]);
        }
    }

    fn convolution(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize) {
        self.add(&format!("{name}.weight"), vec![outputs, inputs, kernel, kernel]);
        self.add(&format!("{name}.bias"), vec![outputs]);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.add(&format!("{name}.weight"), vec![channels]);
        self.add(&format!("{name}.bias"), vec![channels]);
    }

    fn resnet(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.norm(&format!("{name}.norm1"), inputs);
        self.convolution(&format!("{name}.conv1"), inputs, outputs, 3);
        if let Some(time) = self.time {
            self.linear(&format!("{name}.time_emb_proj"), time, outputs, true);
        }
        self.norm(&format!("{name}.norm2"), outputs);
        self.convolution(&format!("{name}.conv2"), outputs, outputs, 3);
        if inputs != outputs {
            self.convolution(&format!("{name}.conv_shortcut"), inputs, outputs, 1);
        }
    }

    fn transformer(&mut self, name: &str, channels: usize, layers: usize) {
        self.norm(&format!("{name}.norm"), channels);
        for projection in ["proj_in", "proj_out"] {
            match self.linear_projection {
                true => self.linear(&format!("{name}.{projection}"), channels, channels, true),
                false => self.convolution(&format!("{name}.{projection}"), channels, channels, 1),
            }
        }
        for layer in 0..layers {
            let block = format!("{name}.transformer_blocks.{layer}");
            for (attention, context) in [("attn1", channels), ("attn2", self.context)] {
                self.linear(&format!("{block}.{attention}.to_q"), channels, channels, false);
                self.linear(&format!("{block}.{attention}.to_k"), context, channels, false);
                self.linear(&format!("{block}.{attention}.to_v"), context, channels, false);
                self.linear(&format!("{block}.{attention}.to_out.0"), channels, channels, true);
            }
            for norm in ["norm1", "norm2", "norm3"] {
                self.norm(&format!("{block}.{norm}"), channels);
            }
            self.linear(&format!("{block}.ff.net.0.proj"), channels, channels * 8, true);
            self.linear(&format!("{block}.ff.net.2"), channels * 4, channels, true);
        }
    }

    fn vae_middle(&mut self, half: &str, channels: usize) {
        self.resnet(&format!("{half}.mid_block.resnets.0"), channels, channels);
        let attention = format!("{half}.mid_block.attentions.0");
        self.norm(&format!("{attention}.group_norm"), channels);
        for matrix in ["to_q", "to_k", "to_v", "to_out.0"] {
            self.linear(&format!("{attention}.{matrix}"), channels, channels, true);
        }
        self.resnet(&format!("{half}.mid_block.resnets.1"), channels, channels);
    }
}

fn number(value: &Json) -> Option<usize> {
    value.as_u64()?.try_into().ok()
}

fn numbers(value: &Json) -> Option<Vec<usize>> {
    value.as_array()?.iter().map(number).collect()
}

/// One number for all levels, or a list with one for each.
fn per_level(value: &Json, level: usize) -> Option<usize> {
    number(value).or_else(|| number(&value[level]))
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
        let configs = sdtrain_state_dict::PipelineConfigs::sdxl(false);
        let shapes = unet(&configs.unet).expect("complete");
        assert_eq!((shapes.len(), count(&shapes)), (1680, 2_567_463_684));
        let shapes = configs.text_encoders.iter().map(|config| text_encoder(config).expect("complete"));
        assert_eq!(shapes.map(|shapes| count(&shapes)).collect::<Vec<_>>(), [123_060_480, 694_659_840]);
    }

    #[test]
    fn an_incomplete_configuration_gives_nothing() {
        assert_eq!(unet(&json!({"block_out_channels": [320]})), None);
        assert_eq!(vae(&json!({})), None);
    }
}
