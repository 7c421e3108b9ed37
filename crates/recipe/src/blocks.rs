//! `[blocks]`: how fast the single blocks of the UNet learn.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::UnetBlocks;
use crate::ranges::too_large_for_fp32;

/// How fast the single blocks of the UNet learn, whether their own weights or adapters beside them. Blocks are numbered as in kohya's
/// scripts, by the original names: SD1 has 25, number 0 is `input_blocks.0` (with the time embedding), 1 to 11 the other
/// `input_blocks`, 12 `middle_block`, 13 to 24 `output_blocks.0` to `.11` (the last with `out`). Smaller UNets have fewer, and
/// take lists of their own length, or of SD1's: then every level counts three, as in `lora.block_ranks`, and what a UNet does
/// not have goes unused. For SDXL, which has 19 in this way, `learning_rates` may have kohya's 23: 0 is both embeddings (`time_embed`,
/// `label_emb`), 1 to 9 `input_blocks.0` to `.8`, 10 to 12 the three layers of `middle_block`, 13 to 21 `output_blocks.0` to `.8`, 22
/// `out`.
/// A block whose rate is 0 is frozen; a new LoRA gets no adapters there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BlocksConfig {
    /// The learning rate of each block, one number a block (25 in SD1; 23 or 19 in SDXL). Absent: the UNet's rate times the weights below.
    #[schemars(extend("x-other-names" = ["block_lr"]))]
    pub learning_rates: Option<Vec<f64>>,

    /// What the UNet's rate is multiplied by in the down half: one number a block (12 in SD1), or the name of a curve:
    /// `cosine` (1 falling to 0), `sine` (0 rising to 1), `linear` (0 to 1), `reverse_linear` (1 to 0), `zeros`; with `+0.25`
    /// behind it that is added. Absent: 1 for each.
    #[schemars(extend("x-other-names" = ["down_lr_weight"]))]
    pub down_weights: Option<BlockWeights>,

    /// What the UNet's rate is multiplied by in the middle block. Absent: 1.
    #[schemars(extend("x-other-names" = ["mid_lr_weight"]))]
    pub mid_weight: Option<f64>,

    /// What the UNet's rate is multiplied by in the up half, as in `down_weights`.
    #[schemars(extend("x-other-names" = ["up_lr_weight"]))]
    pub up_weights: Option<BlockWeights>,

    /// A block whose weight is not greater than this is frozen.
    #[schemars(extend("x-other-names" = ["block_lr_zero_threshold"]))]
    pub zero_threshold: f64,
}

/// Weights of the blocks of one half.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum BlockWeights {
    /// One a block.
    List(Vec<f64>),
    /// A curve over them.
    Curve(String),
}

/// Names of the curves, as kohya's scripts know them.
const CURVES: [&str; 5] = ["cosine", "sine", "linear", "reverse_linear", "zeros"];

/// What is wrong with a key of `[blocks]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlocksMistake {
    /// The key, without its section.
    pub key: &'static str,
    /// What is wrong, to be read after the key.
    pub message: String,
    /// The way out, where there is one.
    pub hint: Option<String>,
}

impl BlocksConfig {
    /// Whether any block has a rate of its own.
    pub fn is_set(&self) -> bool {
        *self != BlocksConfig { zero_threshold: self.zero_threshold, ..BlocksConfig::default() }
    }

    /// What is wrong whatever the model is.
    pub fn mistakes(&self) -> Vec<BlocksMistake> {
        let mut mistakes = Vec::new();
        let mut refuse = |key, message: String, hint: Option<&str>| {
            mistakes.push(BlocksMistake { key, message, hint: hint.map(str::to_owned) });
        };
        let halves = [("down_weights", &self.down_weights), ("up_weights", &self.up_weights)];
        let has_weights = halves.iter().any(|(_, weights)| weights.is_some()) || self.mid_weight.is_some();
        if self.learning_rates.is_some() && has_weights {
            refuse("learning_rates", "is set, and so are weights of blocks".into(), Some("keep the one that is meant"));
        }
        for (key, weights) in halves {
            match weights {
                Some(BlockWeights::Curve(text)) if curve(text, 2).is_none() => {
                    let hint = format!("it is a list of numbers, or one of {}, also with `+0.25`", CURVES.join(", "));
                    refuse(key, format!("is no curve: \"{text}\""), Some(&hint));
                }
                Some(BlockWeights::List(list)) => refuse_bad(key, list, &mut refuse),
                _ => {}
            }
        }
        refuse_bad("mid_weight", self.mid_weight.as_slice(), &mut refuse);
        refuse_bad("learning_rates", self.learning_rates.as_deref().unwrap_or_default(), &mut refuse);
        refuse_bad("zero_threshold", &[self.zero_threshold], &mut refuse);
        mistakes
    }

    /// How the blocks of a model are numbered for these lists: as they are, or as in SD1 where a list has SD1's length, or as kohya's
    /// scripts count SDXL's where the rates are as many.
    pub fn numbering(&self, own: UnetBlocks) -> UnetBlocks {
        let (sd1, sdxl) = (UnetBlocks::sd1(), UnetBlocks::sdxl());
        let half = |weights: &Option<BlockWeights>| match weights {
            Some(BlockWeights::List(list)) => Some(list.len()),
            _ => None,
        };
        let rates = self.learning_rates.as_ref().map(Vec::len);
        if rates == Some(sdxl.count()) && own.fits_into(&sdxl) {
            return sdxl;
        }
        let of_sd1 = rates == Some(sd1.count())
            || [&self.down_weights, &self.up_weights].into_iter().any(|weights| half(weights) == Some(sd1.half()));
        // A UNet that is deeper has more blocks than such a list has places.
        if of_sd1 && own.fits_into(&sd1) { sd1 } else { own }
    }

    /// The rate of each of `blocks`, where the UNet's is `unet_rate`; nothing when no block has one of its own.
    pub fn rates(&self, unet_rate: f64, blocks: &UnetBlocks) -> Result<Option<Vec<f64>>, BlocksMistake> {
        if !self.is_set() {
            return Ok(None);
        }
        let of_length = |key: &'static str, list: Vec<f64>, length: usize| match list.len() == length {
            true => Ok(list),
            false => Err(BlocksMistake {
                key,
                message: format!("has {} numbers, but the model has {length} such blocks", list.len()),
                hint: Some(format!(
                    "the model has {} in each half and {} in all; SD1's 12 and 25 are right for smaller ones, too, \
                     and 23 in all for SDXL",
                    blocks.half(),
                    blocks.count()
                )),
            }),
        };
        if let Some(rates) = &self.learning_rates {
            return of_length("learning_rates", rates.clone(), blocks.count()).map(Some);
        }
        let half = |key, weights: &Option<BlockWeights>| match weights {
            None => Ok(vec![1.0; blocks.half()]),
            Some(BlockWeights::List(list)) => of_length(key, list.clone(), blocks.half()),
            Some(BlockWeights::Curve(text)) => {
                Ok(curve(text, blocks.half()).unwrap_or_else(|| vec![1.0; blocks.half()]))
            }
        };
        let mut weights = half("down_weights", &self.down_weights)?;
        weights.push(self.mid_weight.unwrap_or(1.0));
        weights.extend(half("up_weights", &self.up_weights)?);
        let rate = |weight: f64| if weight > self.zero_threshold { weight * unet_rate } else { 0.0 };
        Ok(Some(weights.into_iter().map(rate).collect()))
    }

    /// The rates other than 0 that blocks have where the UNet's is `unet_rate`, whatever the model is: one a block of lists, a curve as
    /// over SD1's blocks, one where there is neither.
    pub(crate) fn rates_that_learn(&self, unet_rate: f64) -> Vec<f64> {
        let half = |weights: &Option<BlockWeights>| match weights {
            None => vec![1.0],
            Some(BlockWeights::List(list)) => list.clone(),
            Some(BlockWeights::Curve(text)) => curve(text, UnetBlocks::sd1().half()).unwrap_or_default(),
        };
        let mut rates = match &self.learning_rates {
            Some(rates) => rates.clone(),
            None if !self.is_set() => vec![unet_rate],
            None => {
                let mut weights = half(&self.down_weights);
                weights.push(self.mid_weight.unwrap_or(1.0));
                weights.extend(half(&self.up_weights));
                weights.retain(|&weight| weight > self.zero_threshold);
                weights.into_iter().map(|weight| weight * unet_rate).collect()
            }
        };
        rates.retain(|&rate| rate != 0.0);
        rates
    }
}

fn refuse_bad(key: &'static str, values: &[f64], refuse: &mut impl FnMut(&'static str, String, Option<&str>)) {
    if let Some(value) = values.iter().find(|value| !(**value >= 0.0 && value.is_finite())) {
        refuse(key, format!("must not be negative, and has {value}"), None);
    } else if let Some(message) = values.iter().copied().find_map(too_large_for_fp32) {
        refuse(key, message, None);
    }
}

/// The `length` weights that a curve's name stands for (kohya-ss/sd-scripts, networks/lora.py, `get_block_lr_weight`).
fn curve(text: &str, length: usize) -> Option<Vec<f64>> {
    let (name, added) = text.split_once('+').unwrap_or((text, "0"));
    let added: f64 = added.trim().parse().ok().filter(|added: &f64| added.is_finite())?;
    // From 0 in the first block to 1 in the last.
    let rising = (0..length).map(|index| index as f64 / length.saturating_sub(1).max(1) as f64);
    let quarter_wave = |at: f64| (std::f64::consts::FRAC_PI_2 * at).sin();
    let curve: Vec<f64> = match name.trim() {
        "cosine" => rising.rev().map(quarter_wave).collect(),
        "sine" => rising.map(quarter_wave).collect(),
        "linear" => rising.collect(),
        "reverse_linear" => rising.rev().collect(),
        "zeros" => vec![0.0; length],
        _ => return None,
    };
    Some(curve.into_iter().map(|weight| weight + added).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two levels of one layer: halves of four blocks.
    fn blocks() -> UnetBlocks {
        UnetBlocks::of_names(["down_blocks.0.resnets.0.x", "down_blocks.1.resnets.0.x"])
    }

    fn rates(config: BlocksConfig) -> Vec<f64> {
        assert_eq!(config.mistakes(), []);
        config.rates(2.0, &blocks()).expect("right lengths").expect("set")
    }

    fn near(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} is not {expected:?}");
    }

    #[test]
    fn curves_are_those_of_kohyas_scripts() {
        let root = 3f64.sqrt() / 2.0;
        for (name, expected) in [
            ("sine", [0.0, 0.5, root, 1.0]),
            ("cosine", [1.0, root, 0.5, 0.0]),
            ("linear", [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]),
            ("reverse_linear", [1.0, 2.0 / 3.0, 1.0 / 3.0, 0.0]),
            ("zeros+.5", [0.5; 4]),
            ("linear + 0.25", [0.25, 0.25 + 1.0 / 3.0, 0.25 + 2.0 / 3.0, 1.25]),
        ] {
            near(&curve(name, 4).expect("known"), &expected);
        }
        assert!(curve("tangent", 4).is_none() && curve("sine+x", 4).is_none());
    }

    #[test]
    fn weights_multiply_the_rate_of_the_unet_and_small_ones_freeze() {
        let config = BlocksConfig {
            down_weights: Some(BlockWeights::Curve("linear".into())),
            mid_weight: Some(0.5),
            up_weights: Some(BlockWeights::List(vec![1.0, 0.25, 0.1, 2.0])),
            zero_threshold: 0.1,
            ..BlocksConfig::default()
        };
        near(&rates(config), &[0.0, 2.0 / 3.0, 4.0 / 3.0, 2.0, 1.0, 2.0, 0.5, 0.0, 4.0]);
    }

    #[test]
    fn rates_stand_for_themselves() {
        let list: Vec<f64> = (0..9).map(f64::from).collect();
        let config = BlocksConfig { learning_rates: Some(list.clone()), ..BlocksConfig::default() };
        assert_eq!(rates(config), list);
        assert_eq!(BlocksConfig::default().rates(2.0, &blocks()), Ok(None));
    }

    #[test]
    fn a_list_of_another_length_is_refused_instead_of_filled_or_cut() {
        for length in [8, 10] {
            let config = BlocksConfig { learning_rates: Some(vec![1.0; length]), ..BlocksConfig::default() };
            let mistake = config.rates(2.0, &blocks()).expect_err("nine blocks");
            assert_eq!(mistake.message, format!("has {length} numbers, but the model has 9 such blocks"));
        }
    }

    #[test]
    fn a_list_of_sd1s_length_is_right_for_a_smaller_unet_by_the_same_numbers_as_block_ranks() {
        let list: Vec<f64> = (0..25).map(f64::from).collect();
        let config = BlocksConfig { learning_rates: Some(list.clone()), ..BlocksConfig::default() };
        let numbering = config.numbering(blocks());
        assert_eq!(config.rates(1.0, &numbering), Ok(Some(list)));
        for (name, number) in [("down_blocks.1.resnets.0.x", 4), ("mid_block.x", 12), ("up_blocks.1.resnets.1.x", 17)] {
            assert_eq!(numbering.number_of(name), number, "{name}");
        }
        let halves = BlocksConfig { down_weights: Some(BlockWeights::List(vec![0.5; 12])), ..BlocksConfig::default() };
        assert_eq!(halves.rates(1.0, &halves.numbering(blocks())).expect("twelve").expect("set").len(), 25);
        let own = BlocksConfig { learning_rates: Some(vec![1.0; 9]), ..BlocksConfig::default() };
        assert_eq!(own.numbering(blocks()), blocks());
        let deeper = UnetBlocks::of_names(["down_blocks.0.resnets.2.x"]);
        assert_eq!(config.numbering(deeper.clone()), deeper, "three layers a level have no place in SD1's numbers");
    }

    #[test]
    fn twenty_three_rates_are_kohyas_of_sdxl_and_refused_for_other_families() {
        let list: Vec<f64> = (0..23).map(f64::from).collect();
        let config = BlocksConfig { learning_rates: Some(list.clone()), ..BlocksConfig::default() };
        let levels = ["down_blocks.0.resnets.1.x", "down_blocks.1.resnets.1.x", "down_blocks.2.resnets.1.x"];
        let sdxl = UnetBlocks::of_names(levels.into_iter().chain(["add_embedding.linear_1.weight"]));
        let numbering = config.numbering(sdxl.clone());
        assert_eq!((&numbering, config.rates(1.0, &numbering)), (&UnetBlocks::sdxl(), Ok(Some(list))));
        let own = BlocksConfig { learning_rates: Some(vec![1.0; 19]), ..BlocksConfig::default() };
        assert_eq!(own.numbering(sdxl.clone()), sdxl, "its own length stays right");
        let numbering = config.numbering(UnetBlocks::of_names(levels));
        let mistake = config.rates(1.0, &numbering).expect_err("nineteen blocks");
        assert_eq!(mistake.message, "has 23 numbers, but the model has 19 such blocks");
    }
}
