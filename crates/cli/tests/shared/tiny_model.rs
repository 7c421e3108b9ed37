//! A model whose weights are drawn at random, so that its configurations are all of it.

/// Its files by their path in the model's folder.
pub const TINY_MODEL: [(&str, &str); 4] = [
    ("model_index.json", r#"{"_class_name": "StableDiffusionPipeline"}"#),
    (
        "unet/config.json",
        r#"{"block_out_channels": [32, 64], "cross_attention_dim": 32, "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}"#,
    ),
    ("vae/config.json", r#"{"block_out_channels": [32, 32, 32], "layers_per_block": 1}"#),
    (
        "text_encoder/config.json",
        r#"{"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}"#,
    ),
];
