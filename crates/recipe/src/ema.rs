//! `[ema]`: a running mean of the trained weights, which is what comes out of the run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An exponential moving average of the trained weights, of any method. Products, validation and pictures take the averaged
/// weights; training goes on with its own. It moves as diffusers' `EMAModel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmaConfig {
    /// Keep the average.
    #[schemars(extend("x-other-names" = ["use_ema"]))]
    pub enabled: bool,

    /// How much of the average stays at an update once the warm-up is over, 0 to 1. Typical: 0.999 to 0.9999; the average
    /// spans about `1 / (1 - decay)` updates, so a short run needs less.
    #[schemars(extend("x-other-names" = ["ema_decay"]))]
    pub decay: f64,

    /// The least that stays at an update, the first ones included.
    pub min_decay: f64,

    /// How the decay rises in the first updates.
    pub warmup: EmaWarmup,

    /// `inv_gamma` of the warm-up `power`: `1 - (1 + update / inv_gamma) ^ -power`.
    pub inv_gamma: f64,

    /// `power` of the warm-up `power`. Typical: 2/3 for runs over a million steps, 3/4 for shorter ones.
    pub power: f64,

    /// Optimizer steps before the first that is averaged; until then the average is the weights themselves.
    pub update_after_step: u64,

    /// Optimizer steps from one update to the next.
    #[schemars(extend("x-other-names" = ["ema_update_step_interval"]))]
    pub update_every: u64,

    /// Keep the average in the computer's memory, also when training is on a GPU: slower updates, no GPU memory.
    pub on_cpu: bool,

    /// Save the weights that were not averaged as well, as a second product with `-raw` in its name.
    pub save_raw: bool,
}

/// How the decay rises in the first updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmaWarmup {
    /// `(1 + update) / (10 + update)`.
    Count,
    /// `1 - (1 + update / inv_gamma) ^ -power`.
    Power,
    /// At `decay` from the first update on.
    None,
}

impl Default for EmaConfig {
    fn default() -> Self {
        EmaConfig {
            enabled: false,
            decay: 0.9999,
            min_decay: 0.0,
            warmup: EmaWarmup::Count,
            inv_gamma: 1.0,
            power: 2.0 / 3.0,
            update_after_step: 0,
            update_every: 1,
            on_cpu: false,
            save_raw: false,
        }
    }
}
