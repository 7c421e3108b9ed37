//! `[log]`: what is written down about the run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is written down about the run, beside the console.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Write TensorBoard files to `tensorboard/` in the output folder.
    pub tensorboard: bool,

    /// Write `metrics.jsonl` in the output folder: one object a step.
    pub jsonl: bool,

    /// Optimizer steps between two lines on a console that is not a terminal.
    pub every_steps: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { tensorboard: true, jsonl: true, every_steps: 10 }
    }
}
