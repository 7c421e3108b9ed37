//! `[checkpoint]`: saved states that an interrupted run continues from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

use crate::{Every, step_of_name};

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

    /// Keep the room of one checkpoint on the disk, in a file `.reserve`, which is given up when the disk is full: what others write
    /// does not keep a run from saving then. Where the file system cannot reserve, there is none.
    pub reserve: bool,

    /// How many seconds a run has between the signal that asks it to stop and the one that ends it: what stands behind the `@` in
    /// SLURM's `--signal=USR1@120`, or Kubernetes' `terminationGracePeriodSeconds`. A run whose saving takes more than half of it
    /// says so. Absent: not known.
    pub grace_seconds: Option<f64>,

    /// Keys, or whole sections, that may have other values when the run is continued although they decide its steps:
    /// `["train.max_steps", "lr_schedule"]` prolongs a run, `["data"]` goes on with other images, from the beginning of an epoch on, and
    /// `["model"]` with other base weights. Each change is said and recorded in `run.json`. Keys that decide no step (`samples`,
    /// `log`, `checkpoint`, `data.workers` …) need no permission.
    pub allow_changes: Vec<String>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig {
            every_steps: None,
            every_epochs: None,
            keep_last: 2,
            retry_minutes: 10,
            reserve: true,
            grace_seconds: None,
            allow_changes: Vec::new(),
        }
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

    /// How many a run keeps that it writes on its way: none where it writes none. The last step writes one whatever is said here.
    fn kept(&self) -> usize {
        if self.every().is_never() { 0 } else { self.keep_last.max(1) }
    }

    /// How many more checkpoints than lie in `folder` it must have room for at a time: those that are kept and not there yet, and the
    /// one that is written before the oldest goes. There is always one more. A folder that cannot be read has none.
    pub fn still_to_come(&self, folder: &Path) -> u64 {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let there = entries.filter(|entry| entry.file_name().to_str().and_then(step_of_name).is_some()).count();
        (self.kept() + 1).saturating_sub(there).max(1) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_that_are_there_need_no_more_room() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let parent = folder.path().join("checkpoints");
        let two = CheckpointConfig { keep_last: 2, ..CheckpointConfig::default() };
        assert_eq!(two.still_to_come(&parent), 3);
        let none = CheckpointConfig { every_steps: Some(0), ..two.clone() };
        assert_eq!(none.still_to_come(&parent), 1, "the last step writes one");
        for step in ["step-000001", "step-000002", "step-000003", "step-000004"] {
            std::fs::create_dir_all(parent.join(step)).expect("a writable folder");
        }
        assert_eq!(two.still_to_come(&parent), 1, "there is always one more");
    }
}
