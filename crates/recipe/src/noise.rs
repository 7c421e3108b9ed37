//! `[noise]`: the noise that training adds, and at which timesteps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The noise that training adds, and at which timesteps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NoiseConfig {
    /// Strength of a constant added to each channel's noise, drawn anew for each example: the model then learns overall
    /// brightness and colour, too. Typical: 0.03 to 0.1. 0: none.
    #[schemars(extend("x-other-names" = ["noise_offset"]))]
    pub offset: f64,

    /// Smallest timestep that is trained.
    pub min_timestep: u32,

    /// Timesteps below this are trained. Absent: all of the model's, usually 1000.
    pub max_timestep: Option<u32>,
}
