//! `[lora.ia3]`: which side of a layer (IA)³ multiplies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::matches_pattern;

/// The sides of (IA)³.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ia3Config {
    /// Layers whose input is multiplied; of the others it is the output. Patterns as in `lora.targets`. Absent: the last
    /// layer of each feed-forward, as in the paper.
    #[schemars(extend("x-other-names" = ["feedforward_modules", "train_on_input"]))]
    pub on_input: Vec<String>,
}

impl Default for Ia3Config {
    fn default() -> Self {
        Ia3Config { on_input: ["unet.*.ff.net.2", "text_encoder*.mlp.fc2"].map(str::to_owned).to_vec() }
    }
}

impl Ia3Config {
    /// Whether the input of the layer `full_path` is multiplied.
    pub fn is_on_input(&self, full_path: &str) -> bool {
        self.on_input.iter().any(|pattern| matches_pattern(pattern, full_path))
    }
}
