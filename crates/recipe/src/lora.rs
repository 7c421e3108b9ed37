//! `[lora]`: kind, size, place and file format of an adapter.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{AdapterKind, Ia3Config, LokrConfig, UnetBlocks, matches_pattern};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Modules of the UNet that get an adapter when `lora.targets` says nothing else: attention and feed-forward.
pub const UNET_TARGETS: [&str; 3] = ["unet.*.attn1.*", "unet.*.attn2.*", "unet.*.ff.*"];

/// Modules of the text encoder that get an adapter with `lora.train_text_encoder`: attention and MLP, of CLIP and of BERT.
pub const TEXT_ENCODER_TARGETS: [&str; 5] = [
    "text_encoder*.self_attn.*",
    "text_encoder*.mlp.*",
    "text_encoder.encoder.layer.*.attention.*",
    "text_encoder.encoder.layer.*.intermediate.dense",
    "text_encoder.encoder.layer.*.output.dense",
];

/// Modules that (IA)³ is put beside, as in its paper: keys, values and the end of the feed-forward.
const IA3_UNET_TARGETS: [&str; 3] = ["unet.*.to_k", "unet.*.to_v", "unet.*.ff.net.2"];
const IA3_TEXT_ENCODER_TARGETS: [&str; 5] = [
    "text_encoder*.self_attn.k_proj",
    "text_encoder*.self_attn.v_proj",
    "text_encoder*.mlp.fc2",
    "text_encoder.*.attention.self.key",
    "text_encoder.*.attention.self.value",
];

/// Blocks of an SD UNet as kohya's scripts count them: 0 to 11 down, 12 in the middle, 13 to 24 up.
pub const KOHYA_BLOCKS: usize = 25;

/// Blocks of SDXL's UNet as kohya's scripts count them: 0 the embeddings, 1 to 9 down, 10 to 12 in the middle, 13 to 21 up, 22 out.
pub const KOHYA_BLOCKS_OF_SDXL: usize = 23;

/// An adapter beside frozen weights: LoRA (arXiv:2106.09685), where beside `W` stands `alpha / rank · B·A`, or one of its
/// relatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// What stands beside the weights.
    #[schemars(extend("x-other-names" = ["algo", "peft_type", "network_module"]))]
    pub kind: AdapterKind,

    /// Rows of `A` and columns of `B`: how much the adapter can express. Typical: 4 to 128.
    #[schemars(extend("x-other-names" = ["network_dim", "lora_rank"]))]
    pub rank: u32,

    /// The adapter counts `alpha / rank` times. Absent: the same as `rank`.
    #[schemars(extend("x-other-names" = ["network_alpha", "lora_alpha"]))]
    pub alpha: Option<f64>,

    /// Scale by `alpha / √rank` instead of `alpha / rank`, which keeps large ranks from learning slowly
    /// (arXiv:2312.03732). Files then hold an alpha that gives the same scale to programs that divide by the rank.
    #[schemars(extend("x-other-names" = ["use_rslora", "rs_lora", "rslora"]))]
    pub rank_stabilized: bool,

    /// How often a number that goes through the adapter is dropped during training, 0 to 1; the others are scaled up. Where,
    /// `dropout_at` says.
    #[schemars(extend("x-other-names" = ["lora_dropout", "neuron_dropout"], "x-refused-names" = {
        "network_dropout": "it is `lora.dropout`, with `lora.dropout_at = \"rank_activations\"`"
    }))]
    pub dropout: f64,

    /// Where `dropout` acts.
    pub dropout_at: DropoutPlace,

    /// How often a rank of the adapter is dropped during training, 0 to 1: of `lora` and `dora` for each example, of the
    /// other kinds a row of the weight's change.
    pub rank_dropout: f64,

    /// How often a whole adapter is left out of a training step, 0 to 1.
    pub module_dropout: f64,

    /// The longest that the weight change of one adapter may be, as a Frobenius norm: after each step longer ones are
    /// shrunk to it. Typical: 1. Absent: no limit.
    #[schemars(extend("x-other-names" = ["scale_weight_norms", "max_norm"]))]
    pub max_weight_norm: Option<f64>,

    /// Which modules get an adapter, by their path in diffusers behind `unet.`, `text_encoder.` or `text_encoder_2.`;
    /// `*` stands for any text. A module is taken when one pattern matches its whole path. Absent: attention and
    /// feed-forward of the UNet (`unet.*.attn1.*`, `unet.*.attn2.*`, `unet.*.ff.*`); of kind `ia3`, only keys, values and
    /// the end of the feed-forward.
    #[schemars(extend("x-other-names" = ["target_modules"]))]
    pub targets: Option<Vec<String>>,

    /// Train adapters in the UNet.
    pub train_unet: bool,

    /// Train adapters in the text encoders as well: their attention and MLP layers join `targets` (of kind `ia3`, keys,
    /// values and the end of the MLP).
    pub train_text_encoder: bool,

    /// Learning rate of the UNet's adapters. Absent: `optimizer.learning_rate`. Its blocks may have their own: see `[blocks]`.
    pub unet_learning_rate: Option<f64>,

    /// Learning rate of the text encoder's adapters. Absent: `optimizer.learning_rate`. Typical: half of it or less.
    #[schemars(extend("x-other-names" = ["text_encoder_lr"]))]
    pub text_encoder_learning_rate: Option<f64>,

    /// Learning rate of the second text encoder's adapters, where the model has two (SDXL). Absent: `text_encoder_learning_rate`.
    /// 0 leaves them as they begin.
    pub text_encoder_2_learning_rate: Option<f64>,

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

    /// Rank in each of the UNet's 25 blocks, as kohya's scripts count them: twelve down (the first of which has no
    /// adapters), one in the middle, twelve up. 0 leaves a block out. Absent: `rank` in all. Every level counts three, also of a
    /// UNet that is not as deep as SD1's: what it does not have goes unused. For SDXL it may have kohya's 23 instead: the embeddings
    /// (without adapters), nine down (the first of which has none), three in the middle, nine up, and `out` (without). `[blocks]` takes
    /// such lists, too.
    #[schemars(extend("x-other-names" = ["block_dims"]))]
    pub block_ranks: Option<Vec<u32>>,

    /// Alpha in each of the 25 blocks, or SDXL's 23. Absent: `alpha` in all, or else each block's rank.
    pub block_alphas: Option<Vec<f64>>,

    /// Rank of the 3 × 3 convolutions in each of the 25 blocks, or SDXL's 23. Absent: `conv_rank` in all.
    #[schemars(extend("x-other-names" = ["conv_block_dims"]))]
    pub conv_block_ranks: Option<Vec<u32>>,

    /// Alpha of the 3 × 3 convolutions in each of the 25 blocks, or SDXL's 23. Absent: `conv_alpha` in all, or else each block's rank.
    pub conv_block_alphas: Option<Vec<f64>>,

    /// Other ranks for some modules: pattern = rank, as in `"unet.mid_block.*" = 32`. Of several patterns that match, the
    /// longest counts. 0 leaves a module out. It goes before `block_ranks`.
    pub rank_pattern: BTreeMap<String, u32>,

    /// Other alphas for some modules: pattern = alpha, as in `rank_pattern`.
    pub alpha_pattern: BTreeMap<String, f64>,

    /// The factors of kind `lokr`.
    pub lokr: LokrConfig,

    /// The sides of kind `ia3`.
    pub ia3: Ia3Config,

    /// How the product's tensors are named.
    pub format: LoraFormat,

    /// An adapter file of this kind, in either format, that training continues from; it may lie on the hub (`hf:ORG/REPO/FILE`). The file decides rank and alpha of the
    /// layers that it has; layers that it lacks, and the rest of `[lora]` names, get new adapters. Absent: new adapters
    /// everywhere, which change nothing at first.
    #[schemars(extend("x-other-names" = ["network_weights"]))]
    pub initial: Option<PathBuf>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            kind: AdapterKind::Lora,
            rank: 16,
            alpha: None,
            rank_stabilized: false,
            dropout: 0.0,
            dropout_at: DropoutPlace::Input,
            rank_dropout: 0.0,
            module_dropout: 0.0,
            max_weight_norm: None,
            targets: None,
            train_unet: true,
            train_text_encoder: false,
            unet_learning_rate: None,
            text_encoder_learning_rate: None,
            text_encoder_2_learning_rate: None,
            loraplus_lr_ratio: None,
            loraplus_unet_lr_ratio: None,
            loraplus_text_encoder_lr_ratio: None,
            convolutions: false,
            conv_rank: None,
            conv_alpha: None,
            block_ranks: None,
            block_alphas: None,
            conv_block_ranks: None,
            conv_block_alphas: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            lokr: LokrConfig::default(),
            ia3: Ia3Config::default(),
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

    /// The patterns of `targets`, or what stands for them when they are absent.
    pub fn effective_targets(&self) -> Vec<String> {
        let usual = if self.kind == AdapterKind::Ia3 { IA3_UNET_TARGETS } else { UNET_TARGETS };
        self.targets.clone().unwrap_or_else(|| usual.map(str::to_owned).to_vec())
    }

    /// Rank and alpha of the adapter beside the layer `path` of `part` (`unet`, `text_encoder`), if it gets one; alpha is
    /// the one whose alpha/rank is the scale, also with `rank_stabilized`. `kernel` is the side of a convolution, 1 for a
    /// linear layer.
    pub fn adapter_beside(&self, part: &str, path: &str, kernel: usize) -> Option<(u32, f64)> {
        let full_path = format!("{part}.{path}");
        let is_unet = part == "unet";
        // The first and last convolution are no part of a block; kohya's scripts leave them out, too.
        let by_kernel = is_unet && self.train_unet && self.convolutions && kernel > 1 && path.contains("_block");
        if !by_kernel && !self.is_target(is_unet, &full_path) {
            return None;
        }
        let (mut rank, mut alpha) = match by_kernel {
            // An alpha for linear layers is one for convolutions, too, as long as they share the rank.
            true => (
                self.conv_rank.unwrap_or(self.rank),
                self.conv_alpha.or(self.alpha.filter(|_| self.conv_rank.is_none())),
            ),
            false => (self.rank, self.alpha),
        };
        let (ranks, alphas) = match by_kernel {
            true => (&self.conv_block_ranks, &self.conv_block_alphas),
            false => (&self.block_ranks, &self.block_alphas),
        };
        if is_unet {
            rank = ranks.as_ref().and_then(|ranks| of_block(ranks, path)).unwrap_or(rank);
            alpha = alphas.as_ref().and_then(|alphas| of_block(alphas, path)).or(alpha);
        }
        rank = longest_match(&self.rank_pattern, &full_path).unwrap_or(rank);
        alpha = longest_match(&self.alpha_pattern, &full_path).or(alpha);
        let alpha = alpha.unwrap_or(f64::from(rank));
        let alpha = if self.rank_stabilized { alpha * f64::from(rank).sqrt() } else { alpha };
        (rank > 0).then_some((rank, alpha))
    }

    /// The list of blocks that is SDXL's while the UNet, whose blocks are `own`, is none: message and hint.
    pub fn block_list_refused(&self, own: &UnetBlocks) -> Option<(String, String)> {
        let lengths = [
            ("lora.block_ranks", self.block_ranks.as_ref().map(Vec::len)),
            ("lora.block_alphas", self.block_alphas.as_ref().map(Vec::len)),
            ("lora.conv_block_ranks", self.conv_block_ranks.as_ref().map(Vec::len)),
            ("lora.conv_block_alphas", self.conv_block_alphas.as_ref().map(Vec::len)),
        ];
        let is_of_sdxl = |length: Option<usize>| length == Some(KOHYA_BLOCKS_OF_SDXL);
        let (key, _) = lengths.into_iter().find(|&(_, length)| is_of_sdxl(length))?;
        let message = format!("`{key}` has {KOHYA_BLOCKS_OF_SDXL} entries, SDXL's blocks, but the model is no SDXL");
        let hint = format!("{KOHYA_BLOCKS} are right for other families: twelve down, one in the middle, twelve up");
        (!own.fits_into(&UnetBlocks::sdxl())).then_some((message, hint))
    }

    fn is_target(&self, is_unet: bool, full_path: &str) -> bool {
        let any = |patterns: &[&str]| patterns.iter().any(|pattern| matches_pattern(pattern, full_path));
        let by_pattern = match &self.targets {
            Some(targets) => targets.iter().any(|pattern| matches_pattern(pattern, full_path)),
            None if self.kind == AdapterKind::Ia3 => any(&IA3_UNET_TARGETS),
            None => any(&UNET_TARGETS),
        };
        match is_unet {
            true => self.train_unet && by_pattern,
            false if self.kind == AdapterKind::Ia3 => {
                self.train_text_encoder && (by_pattern || any(&IA3_TEXT_ENCODER_TARGETS))
            }
            false => self.train_text_encoder && (by_pattern || any(&TEXT_ENCODER_TARGETS)),
        }
    }
}

/// The value of the longest pattern that matches `path`.
fn longest_match<V: Copy>(patterns: &BTreeMap<String, V>, path: &str) -> Option<V> {
    let matching = patterns.iter().filter(|(pattern, _)| matches_pattern(pattern, path));
    matching.max_by_key(|(pattern, _)| pattern.len()).map(|(_, &value)| value)
}

/// What `list` says for the block of the UNet's layer `path`, as kohya's scripts count them; nothing outside of blocks. How they do
/// it for SDXL is told by the length of the list.
fn of_block<V: Copy>(list: &[V], path: &str) -> Option<V> {
    let is_inside = ["down_blocks.", "mid_block.", "up_blocks."].iter().any(|half| path.starts_with(half));
    let blocks = if list.len() == KOHYA_BLOCKS_OF_SDXL { UnetBlocks::sdxl() } else { UnetBlocks::sd1() };
    list.get(blocks.number_of(path)).filter(|_| is_inside).copied()
}

/// Which numbers of an adapter `lora.dropout` drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DropoutPlace {
    /// Those that go into it, as PEFT's `lora_dropout`: what is dropped is missing in every rank.
    Input,
    /// Those between its two matrices, as `network_dropout` of kohya's scripts: each rank of each place by itself. Of kinds
    /// `lora` and `dora`.
    RankActivations,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_as_kohyas_scripts_do() {
        for (path, block) in [
            ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", Some(1)),
            ("down_blocks.0.downsamplers.0.conv", Some(3)),
            ("down_blocks.3.resnets.1.conv1", Some(11)),
            ("mid_block.attentions.0.proj_in", Some(12)),
            ("up_blocks.0.resnets.0.conv1", Some(13)),
            ("up_blocks.1.upsamplers.0.conv", Some(18)),
            ("up_blocks.3.attentions.2.proj_out", Some(24)),
            ("time_embedding.linear_1", None),
            ("conv_in", None),
        ] {
            let numbers: Vec<usize> = (0..KOHYA_BLOCKS).collect();
            assert_eq!(of_block(&numbers, path), block, "{path}");
        }
    }

    #[test]
    fn a_list_of_sdxls_length_is_counted_as_kohyas_scripts_count_sdxl() {
        let numbers: Vec<usize> = (0..KOHYA_BLOCKS_OF_SDXL).collect();
        for (path, block) in [
            ("down_blocks.0.resnets.0.conv1", Some(2)),
            ("down_blocks.0.downsamplers.0.conv", Some(4)),
            ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", Some(5)),
            ("mid_block.resnets.0.conv1", Some(10)),
            ("mid_block.attentions.0.proj_in", Some(11)),
            ("mid_block.resnets.1.conv1", Some(12)),
            ("up_blocks.0.attentions.0.proj_in", Some(13)),
            ("up_blocks.1.upsamplers.0.conv", Some(18)),
            ("up_blocks.2.resnets.2.conv2", Some(21)),
            ("add_embedding.linear_1", None),
            ("conv_out", None),
        ] {
            assert_eq!(of_block(&numbers, path), block, "{path}");
        }
        assert_eq!(numbers.len(), UnetBlocks::sdxl().count());
        let mut ranks = vec![4; KOHYA_BLOCKS_OF_SDXL];
        ranks[11] = 8;
        let config = LoraConfig { block_ranks: Some(ranks), ..LoraConfig::default() };
        assert_eq!(config.adapter_beside("unet", TO_Q, 1), Some((8, 8.0)));
        assert_eq!(config.block_list_refused(&UnetBlocks::sdxl()), None);
        let (message, _) = config.block_list_refused(&UnetBlocks::sd1()).expect("SD1 has 25");
        assert_eq!(message, "`lora.block_ranks` has 23 entries, SDXL's blocks, but the model is no SDXL");
    }

    const TO_Q: &str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";

    #[test]
    fn the_longest_pattern_goes_before_the_block_and_the_block_before_the_rank() {
        let mut config = LoraConfig { rank: 4, ..LoraConfig::default() };
        assert_eq!(config.adapter_beside("unet", TO_Q, 1), Some((4, 4.0)));
        let mut ranks = vec![4; KOHYA_BLOCKS];
        ranks[12] = 8;
        config.block_ranks = Some(ranks);
        assert_eq!(config.adapter_beside("unet", TO_Q, 1), Some((8, 8.0)), "an absent alpha follows the rank");
        config.alpha = Some(2.0);
        assert_eq!(config.adapter_beside("unet", TO_Q, 1), Some((8, 2.0)));
        config.rank_pattern = BTreeMap::from([("unet.*".into(), 16), ("unet.mid_block.*".into(), 32)]);
        config.alpha_pattern = BTreeMap::from([("*.to_q".into(), 1.0)]);
        assert_eq!(config.adapter_beside("unet", TO_Q, 1), Some((32, 1.0)));
        config.rank_pattern.insert("unet.mid_block.*.to_q".into(), 0);
        assert_eq!(config.adapter_beside("unet", TO_Q, 1), None);
    }

    #[test]
    fn a_rank_of_zero_leaves_a_block_out_and_convolutions_have_lists_of_their_own() {
        let mut config = LoraConfig { rank: 4, convolutions: true, ..LoraConfig::default() };
        config.block_ranks = Some(vec![0; KOHYA_BLOCKS]);
        config.conv_block_ranks = Some(vec![2; KOHYA_BLOCKS]);
        config.conv_block_alphas = Some(vec![0.5; KOHYA_BLOCKS]);
        assert_eq!(config.adapter_beside("unet", TO_Q, 1), None);
        assert_eq!(config.adapter_beside("unet", "mid_block.resnets.0.conv1", 3), Some((2, 0.5)));
        config.train_text_encoder = true;
        let fc1 = "text_model.encoder.layers.0.mlp.fc1";
        assert_eq!(config.adapter_beside("text_encoder", fc1, 1), Some((4, 4.0)), "it has no blocks");
    }

    #[test]
    fn a_rank_stabilised_scale_is_alpha_by_the_root_of_the_rank() {
        let config = LoraConfig { rank: 16, alpha: Some(2.0), rank_stabilized: true, ..LoraConfig::default() };
        let (rank, alpha) = config.adapter_beside("unet", TO_Q, 1).expect("a target");
        assert_eq!(alpha / f64::from(rank), 2.0 / 4.0);
    }

    #[test]
    fn ia3_stands_beside_keys_values_and_the_end_of_the_feed_forward() {
        let config = LoraConfig { kind: AdapterKind::Ia3, train_text_encoder: true, ..LoraConfig::default() };
        let beside = |part, path: &str| config.adapter_beside(part, path, 1).is_some();
        assert!(!beside("unet", TO_Q));
        assert!(beside("unet", &TO_Q.replace("to_q", "to_k")));
        let layer = "text_model.encoder.layers.0.self_attn.";
        assert!(
            beside("text_encoder", &format!("{layer}v_proj")) && !beside("text_encoder", &format!("{layer}q_proj"))
        );
    }
}
