//! `[precision]`: number formats of computing and of saving.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number formats of computing and of saving. Trained weights and the optimizer are always kept in fp32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrecisionConfig {
    /// Format of the frozen weights and of most of the arithmetic. `bf16` halves memory and is fast on recent processors and
    /// GPUs; `fp16` needs loss scaling, which is done by itself.
    #[schemars(extend("x-other-names" = ["mixed_precision"]))]
    pub compute: FloatType,

    /// Format of the product's weights. The default loses nothing; `fp16` halves the file.
    #[schemars(extend("x-other-names" = ["save_precision"]))]
    pub save: FloatType,
}

impl Default for PrecisionConfig {
    fn default() -> Self {
        PrecisionConfig { compute: FloatType::Fp32, save: FloatType::Fp32 }
    }
}

/// A floating-point format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FloatType {
    /// 32 bits.
    Fp32,
    /// 16 bits with the range of fp32 and 8 bits of precision.
    Bf16,
    /// 16 bits with 11 bits of precision and a small range.
    Fp16,
}

impl FloatType {
    /// Every format, as a list for the command line.
    pub const ALL: [FloatType; 3] = [FloatType::Fp32, FloatType::Bf16, FloatType::Fp16];

    /// The name as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            FloatType::Fp32 => "fp32",
            FloatType::Bf16 => "bf16",
            FloatType::Fp16 => "fp16",
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        match self {
            FloatType::Fp32 => 4,
            FloatType::Bf16 | FloatType::Fp16 => 2,
        }
    }
}
