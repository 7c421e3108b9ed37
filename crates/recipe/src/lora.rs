//! `[lora]`: size, place and file format of a low-rank adapter.

use std::path::PathBuf;

use crate::matches_pattern;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Modules of the UNet that get an adapter when `lora.targets` says nothing else: attention and feed-forward.
pub const UNET_TARGETS: [&str; 3] = ["unet.*.attn1.*", "unet.*.attn2.*", "unet.*.ff.*"];

/// Modules of the text encoder that get an adapter with `lora.train_text_encoder`: attention and MLP.
pub const TEXT_ENCODER_TARGETS: [&str; 2] = ["text_encoder.*.self_attn.*", "text_encoder.*.mlp.*"];

/// A low-rank adapter (arXiv:2106.09685): beside a frozen weight `W` stands `alpha / rank · B·A`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rows of `A` and columns of `B`: how much the adapter can express. Typical: 4 to 128.
    #[schemars(extend("x-other-names" = ["network_dim", "lora_rank"]))]
    pub rank: u32,

    /// The adapter counts `alpha / rank` times. Absent: the same as `rank`.
    #[schemars(extend("x-other-names" = ["network_alpha", "lora_alpha"]))]
    pub alpha: Option<f64>,

    /// How often a number of the adapter's input is dropped during training, 0 to 1.
    #[schemars(extend("x-other-names" = ["network_dropout", "lora_dropout"]))]
    pub dropout: f64,

    /// Which modules get an adapter, by their path in diffusers behind `unet.` or `text_encoder.`;
    /// `*` stands for any text. A module is taken when one pattern matches its whole path.
    #[schemars(extend("x-other-names" = ["target_modules"]))]
    pub targets: Vec<String>,

    /// Train adapters in the UNet.
    pub train_unet: bool,

    /// Train adapters in the text encoder as well: its attention and MLP layers join `targets`.
    pub train_text_encoder: bool,

    /// Learning rate of the UNet's adapters. Absent: `optimizer.learning_rate`. Its blocks may have their own: see `[blocks]`.
    pub unet_learning_rate: Option<f64>,

    /// Learning rate of the text encoder's adapters. Absent: `optimizer.learning_rate`. Typical: half of it or less.
    #[schemars(extend("x-other-names" = ["text_encoder_lr"]))]
    pub text_encoder_learning_rate: Option<f64>,

    /// How many times the learning rate the upper matrices learn (`lora_up`, `lora_B`): LoRA+ (arXiv:2402.12354).
    /// Typical: 4 to 16. Absent: both matrices alike.
    pub loraplus_lr_ratio: Option<f64>,

    /// The same for the UNet's adapters alone. Absent: `loraplus_lr_ratio`.
    pub loraplus_unet_lr_ratio: Option<f64>,

    /// The same for the text encoder's adapters alone. Absent: `loraplus_lr_ratio`.
    pub loraplus_text_encoder_lr_ratio: Option<f64>,

    /// Give an adapter to the UNet's 3 × 3 convolutions too (known as LoCon, or LoRA-C3Lier), whatever `targets` says.
    pub convolutions: bool,

    /// Rank of the convolutions' adapters. Absent: `rank`.
    #[schemars(extend("x-other-names" = ["conv_dim"]))]
    pub conv_rank: Option<u32>,

    /// Alpha of the convolutions' adapters. Absent: `alpha` when `conv_rank` is absent too, else `conv_rank`.
    pub conv_alpha: Option<f64>,

    /// How the product's tensors are named.
    pub format: LoraFormat,

    /// A LoRA file, of either format, that training continues from. Absent: a new adapter, which changes nothing at first.
    #[schemars(extend("x-other-names" = ["network_weights"]))]
    pub initial: Option<PathBuf>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            rank: 16,
            alpha: None,
            dropout: 0.0,
            targets: UNET_TARGETS.map(str::to_owned).to_vec(),
            train_unet: true,
            train_text_encoder: false,
            unet_learning_rate: None,
            text_encoder_learning_rate: None,
            loraplus_lr_ratio: None,
            loraplus_unet_lr_ratio: None,
            loraplus_text_encoder_lr_ratio: None,
            convolutions: false,
            conv_rank: None,
            conv_alpha: None,
            format: LoraFormat::Kohya,
            initial: None,
        }
    }
}

impl LoraConfig {
    /// Alpha of the linear layers' adapters.
    pub fn effective_alpha(&self) -> f64 {
        self.alpha.unwrap_or(f64::from(self.rank))
    }

    /// Rank of the convolutions' adapters.
    pub fn effective_conv_rank(&self) -> u32 {
        self.conv_rank.unwrap_or(self.rank)
    }

    /// Alpha of the convolutions' adapters.
    pub fn effective_conv_alpha(&self) -> f64 {
        match (self.conv_alpha, self.conv_rank) {
            (Some(alpha), _) => alpha,
            (None, Some(rank)) => f64::from(rank),
            (None, None) => self.effective_alpha(),
        }
    }

    /// Rank and alpha of the adapter beside the layer `path` of `part` (`unet`, `text_encoder`), if it gets one. `kernel`
    /// is the side of a convolution, 1 for a linear layer.
    pub fn adapter_beside(&self, part: &str, path: &str, kernel: usize) -> Option<(u32, f64)> {
        let full_path = format!("{part}.{path}");
        let by_pattern = self.targets.iter().any(|pattern| matches_pattern(pattern, &full_path));
        let by_default = TEXT_ENCODER_TARGETS.iter().any(|pattern| matches_pattern(pattern, &full_path));
        let is_unet = part == "unet";
        // The first and last convolution are no part of a block; kohya's scripts leave them out, too.
        if is_unet && self.train_unet && self.convolutions && kernel > 1 && path.contains("_block") {
            return Some((self.effective_conv_rank(), self.effective_conv_alpha()));
        }
        let wanted = match is_unet {
            true => self.train_unet && by_pattern,
            false => self.train_text_encoder && (by_pattern || by_default),
        };
        wanted.then(|| (self.rank, self.effective_alpha()))
    }
}

/// How a LoRA file names its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoraFormat {
    /// `lora_unet_….lora_down.weight`, as kohya's scripts and most web interfaces.
    Kohya,
    /// `unet.….lora_A.weight`, as PEFT and diffusers.
    Peft,
    /// Two files, the second with `-peft` in its name.
    Both,
}
