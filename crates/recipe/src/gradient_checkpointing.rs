//! `train.gradient_checkpointing`: which blocks are computed again in the backward pass.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which blocks are computed again in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "Written")]
pub enum GradientCheckpointing {
    /// None.
    None,
    /// Those at the full size of the latents.
    HighResolution,
    /// All.
    All,
}

impl GradientCheckpointing {
    /// The name as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            GradientCheckpointing::None => "none",
            GradientCheckpointing::HighResolution => "high_resolution",
            GradientCheckpointing::All => "all",
        }
    }

    /// Whether any block is.
    pub fn is_on(self) -> bool {
        self != GradientCheckpointing::None
    }

    /// Whether every block is, those of a text encoder that is trained among them.
    pub fn is_everywhere(self) -> bool {
        self == GradientCheckpointing::All
    }
}

/// What a configuration may say.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Written {
    Blocks(Blocks),
    /// `true` is `"all"`, `false` is `"none"`.
    Switch(bool),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Blocks {
    /// everything is kept.
    None,
    /// the blocks of the UNet that work at the full size of the latents, which keep most: much of the memory for a part of the time.
    HighResolution,
    /// every block of the UNet, and every layer of a text encoder that is trained.
    All,
}

impl From<bool> for GradientCheckpointing {
    fn from(all: bool) -> GradientCheckpointing {
        Written::Switch(all).into()
    }
}

impl From<Written> for GradientCheckpointing {
    fn from(written: Written) -> GradientCheckpointing {
        match written {
            Written::Blocks(Blocks::None) | Written::Switch(false) => GradientCheckpointing::None,
            Written::Blocks(Blocks::HighResolution) => GradientCheckpointing::HighResolution,
            Written::Blocks(Blocks::All) | Written::Switch(true) => GradientCheckpointing::All,
        }
    }
}
