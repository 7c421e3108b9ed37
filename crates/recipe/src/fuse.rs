//! `[[model.fuse]]`: adapters that become a part of the base before training.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An adapter whose exact weight change is added to the base model before training, as `sdtrain merge` would.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["path"]))]
pub struct FusedAdapter {
    /// An adapter file of any form that is read, or one on the hub (`hf:ORG/REPO/FILE`). Relative to the file it is written in.
    pub path: PathBuf,

    /// How strongly it counts; a negative number takes it away.
    #[schemars(extend("x-other-names" = ["multiplier", "strength"]))]
    pub weight: f64,
}

impl Default for FusedAdapter {
    fn default() -> Self {
        FusedAdapter { path: PathBuf::new(), weight: 1.0 }
    }
}
