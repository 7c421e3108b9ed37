//! Every kind of block of the UNet by itself: output, skip connections and the gradient of its input.

use crate::{FP32, from_weights};
use sdtrain_model::layers::{
    BasicTransformerBlock, Downsample2D, ResnetBlock2D, ResnetConfig, TimestepEmbedding, Transformer2DModel,
    TransformerConfig, Upsample2D, sinusoidal_embedding,
};
use sdtrain_model::unet::{BlockConfig, Conditions, DownBlock, MidBlock, UpBlock};
use sdtrain_torch_test_support::{Golden, assert_near};
use serde_json::Value;
use tch::{Kind, Tensor};

const FILE: &str = "unet_blocks.safetensors";

/// A whole number of a block's arguments, or what diffusers takes without it.
fn number(arguments: &Value, key: &str, default: i64) -> i64 {
    arguments.get(key).map_or(default, |value| value.as_i64().expect("a whole number"))
}

fn transformer(arguments: &Value, channels: i64, groups: &str) -> TransformerConfig {
    TransformerConfig {
        channels,
        heads: number(arguments, "num_attention_heads", 1),
        layers: number(arguments, "num_layers", 1),
        cross_attention_dim: number(arguments, "cross_attention_dim", 1280),
        groups: number(arguments, groups, 32),
        use_linear_projection: arguments["use_linear_projection"] == true,
    }
}

fn block(arguments: &Value) -> BlockConfig {
    let in_channels = number(arguments, "in_channels", 0);
    let out_channels = number(arguments, "out_channels", in_channels);
    let attends = arguments["class"].as_str().expect("a class").contains("CrossAttn");
    BlockConfig {
        in_channels: number(arguments, "prev_output_channel", in_channels),
        out_channels,
        temb_channels: number(arguments, "temb_channels", 0),
        layers: number(arguments, "num_layers", 1),
        groups: number(arguments, "resnet_groups", 32),
        eps: arguments["resnet_eps"].as_f64().expect("a number"),
        transformer: attends
            .then(|| TransformerConfig { layers: 1, ..transformer(arguments, out_channels, "resnet_groups") }),
        resample: arguments["add_downsample"] != false && arguments["add_upsample"] != false,
    }
}

/// The block's output for `input`. What `skips` holds afterwards is what a down block leaves there.
fn forward(golden: &Golden, name: &str, arguments: &Value, input: &Tensor, skips: &mut Vec<Tensor>) -> Tensor {
    let weights = golden.under(&format!("weights.{name}."));
    let b = &from_weights(&weights, Kind::Float);
    let (temb, context) = (golden.tensor("input.temb"), golden.tensor("input.encoder_hidden_states"));
    let conditions = Conditions { temb: &temb, context: &context, gradient_checkpointing: false };
    let channels = input.size()[1];
    let hidden = input.shallow_clone();
    match arguments["class"].as_str().expect("a class") {
        "ResnetBlock2D" => {
            let config = ResnetConfig {
                in_channels: channels,
                out_channels: number(arguments, "out_channels", channels),
                temb_channels: Some(number(arguments, "temb_channels", 512)),
                groups: number(arguments, "groups", 32),
                eps: arguments["eps"].as_f64().expect("a number"),
            };
            ResnetBlock2D::new(b, config).expect("the weights fit").forward(input, Some(&temb))
        }
        "Transformer2DModel" => {
            let config = transformer(arguments, channels, "norm_num_groups");
            Transformer2DModel::new(b, &config).expect("the weights fit").forward(input, &context)
        }
        "BasicTransformerBlock" => {
            let config = transformer(arguments, number(arguments, "dim", 0), "groups");
            BasicTransformerBlock::new(b, &config).expect("the weights fit").forward(input, &context)
        }
        "DownBlock2D" | "CrossAttnDownBlock2D" => {
            DownBlock::new(b, &block(arguments)).expect("the weights fit").forward(hidden, &conditions, skips)
        }
        "UNetMidBlock2DCrossAttn" => {
            MidBlock::new(b, &block(arguments)).expect("the weights fit").forward(hidden, &conditions)
        }
        "UpBlock2D" | "CrossAttnUpBlock2D" => {
            let last_skip_channels = number(arguments, "in_channels", 0);
            let block = UpBlock::new(b, &block(arguments), last_skip_channels).expect("the weights fit");
            block.forward(hidden, &conditions, skips)
        }
        "Downsample2D" => {
            let padding = number(arguments, "padding", 1);
            Downsample2D::new(b, channels, padding).expect("the weights fit").forward(input)
        }
        "Upsample2D" => Upsample2D::new(b, channels).expect("the weights fit").forward(input, None),
        other => panic!("no test for `{other}`"),
    }
}

#[test]
fn every_block_matches_diffusers() {
    let golden = Golden::open(FILE);
    let config = golden.config();
    let mut count = 0;
    for (name, arguments) in config.as_object().expect("arguments by case") {
        let Some(input) = golden.find(&format!("input.{name}.hidden_states")) else { continue };
        let input = input.set_requires_grad(true);
        let skips = golden.names_under(&format!("input.{name}.skips.")).len();
        let mut skips: Vec<Tensor> = (0..skips).map(|i| golden.tensor(&format!("input.{name}.skips.{i}"))).collect();
        let output = forward(&golden, name, arguments, &input, &mut skips);
        let expected = |what: &str| golden.tensor(&format!("output.{name}.{what}"));
        assert_near(&format!("{name}: output"), &output, &expected("hidden_states"), FP32);
        assert_eq!(
            skips.len(),
            golden.names_under(&format!("output.{name}.pushed.")).len(),
            "{name}: skip connections"
        );
        for (i, skip) in skips.iter().enumerate() {
            assert_near(&format!("{name}: skip connection {i}"), skip, &expected(&format!("pushed.{i}")), FP32);
        }
        output.square().mean(Kind::Float).backward();
        assert_near(&format!("{name}: gradient"), &input.grad(), &expected("gradient.hidden_states"), FP32);
        count += 1;
    }
    assert!(count >= 14, "only {count} blocks were tried");
}

#[test]
fn up_sampling_to_a_given_size_matches_diffusers() {
    let golden = Golden::open(FILE);
    let weights = golden.under("weights.upsample.");
    let input = golden.tensor("input.upsample.hidden_states");
    let upsample = Upsample2D::new(&from_weights(&weights, Kind::Float), input.size()[1]).expect("the weights fit");
    let output = upsample.forward(&input, Some((15, 11)));
    assert_near("15 × 11", &output, &golden.tensor("output.upsample.hidden_states_15x11"), FP32);
}

#[test]
fn timestep_embedding_matches_diffusers() {
    let golden = Golden::open(FILE);
    let timesteps = golden.tensor("input.timestep_embedding.timesteps");
    let expected = |what: &str| golden.tensor(&format!("output.timestep_embedding.{what}"));
    let size = expected("sinusoidal").size()[1];
    // 1e-4: the sine of an angle near 1000 keeps only four of fp32's seven digits.
    for (name, size, cosines_first, shift) in [
        ("sinusoidal", size, true, 0.0),
        ("sinusoidal_sin_first_shift_1", size, false, 1.0),
        ("sinusoidal_odd", size - 1, true, 0.0),
    ] {
        assert_near(name, &sinusoidal_embedding(&timesteps, size, cosines_first, shift), &expected(name), 1e-4);
    }
    let weights = golden.under("weights.timestep_embedding.");
    let outputs = expected("embedding").size()[1];
    let network = TimestepEmbedding::new(&from_weights(&weights, Kind::Float), size, outputs).expect("the weights fit");
    assert_near("embedding", &network.forward(&expected("sinusoidal")), &expected("embedding"), FP32);
}
