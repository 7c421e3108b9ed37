//! `[checkpoint]`: saved states that an interrupted run continues from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Every;

/// Optimizer steps between two checkpoints when the configuration does not say.
const DEFAULT_EVERY_STEPS: u64 = 500;

/// Saved states that an interrupted run continues from, to the bit. One is also written when a signal stops the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Optimizer steps between two checkpoints. Absent, with `every_epochs` absent too: 500. 0: none by steps.
    #[schemars(extend("x-other-names" = ["checkpointing_steps"]))]
    pub every_steps: Option<u64>,

    /// Epochs between two checkpoints. Absent or 0: none by epochs.
    pub every_epochs: Option<u64>,

    /// How many checkpoints are kept; older ones are deleted once a newer one is complete. At least 1.
    #[schemars(extend("x-other-names" = ["checkpoints_total_limit"]))]
    pub keep_last: usize,

    /// How many minutes a checkpoint or product is tried again that the disk refuses (full, over its quota, gone), with everything
    /// kept in memory, before the run ends with exit code 7. 0: none.
    pub retry_minutes: u64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { every_steps: None, every_epochs: None, keep_last: 2, retry_minutes: 10 }
    }
}

impl CheckpointConfig {
    /// When checkpoints are due.
    pub fn every(&self) -> Every {
        match (self.every_steps, self.every_epochs) {
            (None, None) => Every::new(Some(DEFAULT_EVERY_STEPS), None),
            (steps, epochs) => Every::new(steps, epochs),
        }
    }
}
