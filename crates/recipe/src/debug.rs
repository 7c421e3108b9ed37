//! `[debug]`: recording and replaying steps.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Recording and replaying steps, to compare them with another program's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DebugConfig {
    /// Write a trace of the first steps to this `.safetensors` file: what went into each and what came out.
    /// Relative to the current folder. Each of several ranks writes one of its own (`trace.rank-1.safetensors`). Absent: no trace.
    pub trace: Option<PathBuf>,

    /// Optimizer steps that are traced.
    pub trace_steps: u64,

    /// Look at where the time of so many steps goes, after two that warm up: their operators, and kernels on a GPU, are written to
    /// `profile/` in the run's folder as a Chrome trace, and the ten costliest are said. A few per cent slower meanwhile.
    /// `--profile N` is short for it. 0: none.
    pub profile_steps: u64,

    /// Take latents, noise, timesteps and prompts from this trace instead of the data.
    /// Relative to the file it is written in. Absent: from the data.
    pub trace_inputs: Option<PathBuf>,

    /// Weights that are no number for one step, to see what a run does about it: tables with `step`, counted from 1,
    /// `parameter`, under its name in traces (`unet.conv_in.weight`), `value`, and with accumulation `pass`. The weight is what it was
    /// before the next pass, and before the update.
    pub faults: Vec<WeightFault>,
}

/// A weight that is no number for one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightFault {
    /// The optimizer step, counted from 1.
    pub step: u64,

    /// Which of the step's passes sees it, counted from 1 in the order of the batches and, within one, of the ranks: a step has
    /// `train.gradient_accumulation_steps` × `train.world_size` of them, or fewer at the end of an epoch. Absent: each rank's last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<u64>,

    /// The parameter whose first number it is: the model's or, under its name in a checkpoint, a trained one.
    pub parameter: String,

    /// What it is.
    #[serde(default)]
    pub value: FaultyNumber,
}

/// A number that no weight may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultyNumber {
    /// Not a number.
    #[default]
    Nan,
    /// Greater than all.
    Infinity,
}

impl Default for DebugConfig {
    fn default() -> Self {
        DebugConfig { trace: None, trace_steps: 10, profile_steps: 0, trace_inputs: None, faults: Vec::new() }
    }
}
