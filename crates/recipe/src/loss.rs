//! `[loss]`: what is minimised.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::PredictionType;

/// What is minimised: the distance of prediction and target in each place, times the mask, averaged over an example, times the
/// example's weights, averaged over the examples of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// How the distance between prediction and target is measured. d is their difference, c is `huber_c` by its schedule.
    #[serde(rename = "type")]
    #[schemars(extend("x-other-names" = ["loss_type"]))]
    pub loss_type: LossType,

    /// Differences much larger than this count by their size, smaller ones by their square. Absent: 0.1.
    pub huber_c: Option<f64>,

    /// How `huber_c` changes with the timestep. Absent: `"snr"`.
    pub huber_schedule: Option<HuberSchedule>,

    /// Factor of c with the schedules `"constant"` and `"exponential"`. Absent: 1.
    pub huber_scale: Option<f64>,

    /// Weigh each example by its signal-to-noise ratio, cut off at this value (arXiv:2303.09556), so that
    /// timesteps with little noise do not dominate. Typical: 5. Absent: every timestep counts the same.
    #[schemars(extend("x-other-names" = ["snr_gamma"], "x-refused-names" = {
        "loss_weight_fn": "set one of `loss.min_snr_gamma`, `loss.debiased_estimation` and `loss.p2_gamma`",
        "loss_weight_strength": "it is the value of `loss.min_snr_gamma` or of `loss.p2_gamma`"
    }))]
    pub min_snr_gamma: Option<f64>,

    /// Weigh each example by 1/√SNR where the model predicts the noise and by 1/(SNR + 1) where it predicts the velocity, with
    /// the SNR cut off at 1000 (arXiv:2310.08442): every timestep counts by what it says of the image.
    #[schemars(extend("x-other-names" = ["debiased_estimation_loss"]))]
    pub debiased_estimation: bool,

    /// Weigh each example by (1 + SNR) to the power of minus this value where the model predicts the noise, and with 2 in the place of
    /// 1 where it predicts the velocity (P2, arXiv:2204.00227): timesteps with little noise, where only details are left,
    /// count less. Typical: 0.5 to 1. Absent: every timestep counts the same.
    pub p2_gamma: Option<f64>,

    /// For models that predict the velocity: weigh each example by SNR/(SNR + 1), the SNR cut off at 1000, so that timesteps count as
    /// they do where the noise is predicted.
    pub scale_v_pred_loss_like_noise_pred: bool,

    /// For models that predict the noise: add this many times the loss that the velocity would have, (SNR + 1)/SNR of the
    /// noise's, the SNR cut off at 1000. Much noise then counts more. Absent: none of it.
    pub v_pred_like_loss: Option<f64>,

    /// Take the SNR of all these weights from the schedule before `model.zero_terminal_snr` rescales it, as kohya's scripts do: the
    /// last timestep then has one greater than 0.
    pub snr_before_rescaling: bool,

    /// What the loss outside of the mask counts, 0 to 1: the mask is never lower than this. Typical: 0.1, so that the model is
    /// not free to put anything there.
    #[schemars(extend("x-other-names" = ["mask_min_value"], "x-refused-names" = {
        "masked_loss": "masks are used where a subset has them: set its `alpha_mask`, or give it \
                        `extra_images` with `column = \"mask\"`",
        "masked_training": "masks are used where a subset has them: set its `alpha_mask`, or give it \
                            `extra_images` with `column = \"mask\"`"
    }))]
    pub unmasked_weight: f64,

    /// Divide the loss of an image by the mean of its mask, so that a small mask counts as much as a large one. Off: an image
    /// counts by the area of its mask, as in kohya's scripts.
    #[schemars(extend("x-other-names" = ["normalize_masked_area_loss"]))]
    pub normalize_masked_area: bool,

    /// How often an image that has a mask is trained whole nevertheless, 0 to 1.
    pub unmasked_probability: f64,

    /// What the loss of regularization images is multiplied by (subsets with `is_regularization = true`, and the class images of
    /// `[dreambooth]`), or with `dreambooth.prior = "base_prediction"` the distance to the base's answers. Typical: 1, so that
    /// they count as much as the images to learn; 0.1 to 0.5 where the subject is learned too slowly beside them.
    pub prior_loss_weight: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig {
            loss_type: LossType::Mse,
            huber_c: None,
            huber_schedule: None,
            huber_scale: None,
            min_snr_gamma: None,
            debiased_estimation: false,
            p2_gamma: None,
            scale_v_pred_loss_like_noise_pred: false,
            v_pred_like_loss: None,
            snr_before_rescaling: false,
            unmasked_weight: 0.0,
            normalize_masked_area: false,
            unmasked_probability: 0.0,
            prior_loss_weight: 1.0,
        }
    }
}

impl LossConfig {
    /// Where differences begin to count by their size.
    pub fn effective_huber_c(&self) -> f64 {
        self.huber_c.unwrap_or(0.1)
    }

    /// How it changes with the timestep.
    pub fn effective_huber_schedule(&self) -> HuberSchedule {
        self.huber_schedule.unwrap_or(HuberSchedule::Snr)
    }

    /// The factor of it.
    pub fn effective_huber_scale(&self) -> f64 {
        self.huber_scale.unwrap_or(1.0)
    }

    /// The weightings by the SNR that are set, each of which has a form of its own for what the model predicts. Those of kohya's
    /// scripts multiply each other there, and here; P2 is no part of those scripts, and stands alone.
    pub fn snr_weightings(&self) -> Vec<&'static str> {
        let all = [
            ("min_snr_gamma", self.min_snr_gamma.is_some()),
            ("scale_v_pred_loss_like_noise_pred", self.scale_v_pred_loss_like_noise_pred),
            ("debiased_estimation", self.debiased_estimation),
            ("p2_gamma", self.p2_gamma.is_some()),
        ];
        all.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect()
    }

    /// What these weights cannot be combined with, seen from what the model predicts and whether its last timestep is pure noise:
    /// `(key, message, hint)` of the first contradiction. The model's own files may say either, so it is asked twice.
    pub fn contradiction(
        &self,
        prediction_type: PredictionType,
        zero_terminal_snr: bool,
    ) -> Option<(&'static str, String, &'static str)> {
        let predicts = match prediction_type {
            PredictionType::Epsilon => "the noise",
            PredictionType::VPrediction => "the velocity",
            PredictionType::Sample => "the image",
        };
        let is = |kind: PredictionType| prediction_type == kind;
        let rules: [(&'static str, bool, bool, &'static str); 4] = [
            (
                "debiased_estimation",
                self.debiased_estimation,
                is(PredictionType::Sample),
                "remove it, or weigh with `loss.min_snr_gamma`",
            ),
            (
                "p2_gamma",
                self.p2_gamma.is_some(),
                is(PredictionType::Sample),
                "remove it, or weigh with `loss.min_snr_gamma`",
            ),
            (
                "scale_v_pred_loss_like_noise_pred",
                self.scale_v_pred_loss_like_noise_pred,
                !is(PredictionType::VPrediction),
                "it is for models with `model.prediction_type = \"v_prediction\"`: remove it",
            ),
            (
                "v_pred_like_loss",
                self.v_pred_like_loss.is_some(),
                !is(PredictionType::Epsilon),
                "it is for models with `model.prediction_type = \"epsilon\"`: remove it",
            ),
        ];
        for (key, is_set, contradicts, hint) in rules {
            if is_set && contradicts {
                return Some((key, format!("`loss.{key}` is not made for a model that predicts {predicts}"), hint));
            }
        }
        (self.snr_before_rescaling && !zero_terminal_snr).then(|| {
            let message = "`loss.snr_before_rescaling`: the noise schedule is not rescaled".to_owned();
            ("snr_before_rescaling", message, "remove it, or set `model.zero_terminal_snr = true`")
        })
    }
}

/// How the distance between prediction and target is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean squared error, d²; `l2` in kohya's scripts.
    Mse,
    /// Mean absolute error, |d|: outliers count less.
    L1,
    /// 2c·(√(d² + c²) − c): about d² up to c and 2c·|d| far beyond it.
    Huber,
    /// 2·(√(d² + c²) − c): about d²/c up to c and 2·|d| far beyond it.
    SmoothL1,
}

impl LossType {
    /// The name in kohya's scripts and their metadata.
    pub fn kohya_name(self) -> &'static str {
        match self {
            LossType::Mse => "l2",
            LossType::L1 => "l1",
            LossType::Huber => "huber",
            LossType::SmoothL1 => "smooth_l1",
        }
    }

    /// Whether c decides anything.
    pub fn has_c(self) -> bool {
        matches!(self, LossType::Huber | LossType::SmoothL1)
    }
}

/// How c changes with the timestep t of T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HuberSchedule {
    /// `huber_c` · `huber_scale` at every timestep.
    Constant,
    /// `huber_c` to the power of t/T, times `huber_scale`: from 1 where there is little noise to `huber_c` where there is much.
    Exponential,
    /// (1 − `huber_c`)/(1 + σ)² + `huber_c` with σ = √((1 − ᾱ)/ᾱ): from nearly 1 to `huber_c`, along with the noise.
    Snr,
}

impl HuberSchedule {
    /// The name as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            HuberSchedule::Constant => "constant",
            HuberSchedule::Exponential => "exponential",
            HuberSchedule::Snr => "snr",
        }
    }
}
