//! `[noise]`: the noise that training adds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The noise that training adds. The options are applied in the order in which they stand here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NoiseConfig {
    /// Strength of a constant added to each channel's noise, drawn anew for each example: the model then learns overall
    /// brightness and colour, too. Typical: 0.03 to 0.1. 0: none.
    #[schemars(extend("x-other-names" = ["noise_offset", "offset_noise", "offset_noise_weight"]))]
    pub offset: f64,

    /// Draw the strength of the offset anew for each example, evenly from 0 to `offset`.
    #[schemars(extend("x-other-names" = ["noise_offset_random_strength"]))]
    pub offset_random_strength: bool,

    /// Make the offset stronger where the latents are far from 0: each channel's strength is max(0, `offset` + this · |mean of
    /// the channel|). May be negative: weaker there. Typical: as large as `offset`. 0: the same for all.
    #[schemars(extend("x-other-names" = ["adaptive_noise_scale"]))]
    pub adaptive_offset_scale: f64,

    /// Strength of a second noise that is added to the first before anything else sees it, so that the target holds it too:
    /// OneTrainer's "perturbation". It only makes noise and target louder; what the paper on exposure bias means is
    /// `input_perturbation`. 0: none.
    #[schemars(extend("x-other-names" = ["perturbation_noise_weight"]))]
    pub perturbation: f64,

    /// Levels of multi-resolution ("pyramid") noise: noise of ever coarser grain is added to the first, which is then brought back
    /// to a standard deviation of 1. The model learns large shapes and brightness more easily. Typical: 6 to 10. 0: none.
    #[schemars(extend("x-other-names" = ["multires_noise_iterations"]))]
    pub multires_iterations: u32,

    /// Strength of each level of multi-resolution noise as a part of the one before. Typical: 0.1 to 0.4. Absent: 0.3.
    #[schemars(extend("x-other-names" = ["multires_noise_discount"]))]
    pub multires_discount: Option<f64>,

    /// Over what the standard deviation of multi-resolution noise is taken. Absent: each example by itself.
    pub multires_norm: Option<MultiresNorm>,

    /// Strength of a second noise that only the input holds and the target does not, so that the model learns to be given
    /// images that are not quite what they should be (arXiv:2301.11706): diffusers' `--input_perturbation`, and the same as
    /// `ip_noise_gamma` of kohya's scripts. Typical: 0.1. 0: none.
    #[schemars(extend("x-other-names" = ["ip_noise_gamma"]))]
    pub input_perturbation: f64,

    /// Draw the strength of `input_perturbation` anew for each example, evenly from 0 to its value.
    #[schemars(extend("x-other-names" = ["ip_noise_gamma_random_strength"]))]
    pub input_perturbation_random_strength: bool,
}

impl NoiseConfig {
    /// Strength of each level of multi-resolution noise as a part of the one before.
    pub fn effective_multires_discount(&self) -> f64 {
        self.multires_discount.unwrap_or(0.3)
    }
}

/// Over what the standard deviation of multi-resolution noise is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MultiresNorm {
    /// Over each example by itself, so that its noise does not depend on the others of its batch.
    Example,
    /// Over the whole batch, as kohya's scripts do it; the noise of an example then depends on the others.
    Batch,
}
