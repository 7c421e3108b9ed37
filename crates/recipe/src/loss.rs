//! `[loss]`: what is minimised.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// How the distance between prediction and target is measured.
    #[serde(rename = "type")]
    #[schemars(extend("x-other-names" = ["loss_type"]))]
    pub loss_type: LossType,

    /// Weigh each example by its signal-to-noise ratio, cut off at this value (arXiv:2303.09556), so that
    /// timesteps with little noise do not dominate. Typical: 5. Absent: every timestep counts the same.
    #[schemars(extend("x-other-names" = ["snr_gamma"]))]
    pub min_snr_gamma: Option<f64>,

    /// What the loss of regularization images is multiplied by (subsets with `is_regularization = true`, and the class images of
    /// `[dreambooth]`), or with `dreambooth.prior = "base_prediction"` the distance to the base's answers. Typical: 1, so that
    /// they count as much as the images to learn; 0.1 to 0.5 where the subject is learned too slowly beside them.
    pub prior_loss_weight: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig { loss_type: LossType::Mse, min_snr_gamma: None, prior_loss_weight: 1.0 }
    }
}

/// How the distance between prediction and target is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean squared error.
    Mse,
}
