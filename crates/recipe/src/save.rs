//! `[save]`: usable products on the way to the last one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Every;

/// Usable products on the way; the last one is always saved. Their format is `precision.save`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SaveConfig {
    /// Optimizer steps between two products (`NAME-step00000250.safetensors`). Absent or 0: none by steps.
    #[schemars(extend("x-other-names" = ["save_every_n_steps"]))]
    pub every_steps: Option<u64>,

    /// Epochs between two products (`NAME-000002.safetensors`). Absent or 0: none by epochs.
    #[schemars(extend("x-other-names" = ["save_every_n_epochs"]))]
    pub every_epochs: Option<u64>,

    /// How many products on the way are kept. Absent: all.
    #[schemars(extend("x-other-names" = ["save_last_n_epochs", "save_last_n_steps"]))]
    pub keep_last: Option<usize>,
}

impl SaveConfig {
    /// When products on the way are due.
    pub fn every(&self) -> Every {
        Every::new(self.every_steps, self.every_epochs)
    }
}
