//! `[precision]`: number formats of computing, of what is trained, and of saving.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number formats of computing, of what is trained, and of saving.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrecisionConfig {
    /// Format of the frozen weights and of most of the arithmetic. `bf16` halves memory and is fast on recent processors and
    /// GPUs; `fp16` needs loss scaling, which is done by itself.
    #[schemars(extend("x-other-names" = ["mixed_precision"]))]
    pub compute: FloatType,

    /// Format in which trained weights are kept between steps; gradients have it too. `bf16` halves both: pure bf16 training,
    /// with 8 bits of precision, in which most updates are smaller than the distance to the next number. What becomes of them
    /// is `rounding`.
    #[schemars(extend("x-other-names" = ["full_bf16"]))]
    pub weights: StoredType,

    /// What becomes of the part of an update that weights in bf16 have no room for.
    #[schemars(extend("x-other-names" = ["stochastic_rounding"]))]
    pub rounding: Rounding,

    /// Format in which an optimizer keeps what is as large as the weights (running means); the update itself is made in fp32. `bf16`
    /// halves it, always with stochastic rounding: most changes of a running mean are too small for bf16. Rows and columns (`adafactor`,
    /// `came`) stay in fp32.
    pub optimizer_state: StoredType,

    /// Whether a GPU may round the factors of fp32 products to TF32, with 11 bits of precision: several times faster from Ampere on.
    /// `true`: in matrix products and convolutions. `false`: in neither. Absent: as torch does it, in convolutions alone. Processors
    /// do not know it.
    #[schemars(extend("x-other-names" = ["allow_tf32", "enable_tf32"]))]
    pub tf32: Option<bool>,

    /// Format of the product's weights. The default loses nothing; `fp16` halves the file.
    #[schemars(extend("x-other-names" = ["save_precision"]))]
    pub save: FloatType,
}

impl Default for PrecisionConfig {
    fn default() -> Self {
        PrecisionConfig {
            compute: FloatType::Fp32,
            weights: StoredType::Fp32,
            rounding: Rounding::Stochastic,
            optimizer_state: StoredType::Fp32,
            tf32: None,
            save: FloatType::Fp32,
        }
    }
}

impl PrecisionConfig {
    /// Bytes that are kept from one step to the next for a weight in `weights` beside its gradient: itself, and its compensation.
    pub fn weight_bytes(&self) -> usize {
        match (self.weights, self.rounding) {
            (StoredType::Fp32, _) | (StoredType::Bf16, Rounding::Kahan) => 4,
            (StoredType::Bf16, _) => 2,
        }
    }
}

/// A format that something is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoredType {
    /// 32 bits.
    Fp32,
    /// 16 bits with the range of fp32 and 8 bits of precision.
    Bf16,
}

impl StoredType {
    /// The name as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            StoredType::Fp32 => "fp32",
            StoredType::Bf16 => "bf16",
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            StoredType::Fp32 => 4,
            StoredType::Bf16 => 2,
        }
    }
}

/// How numbers are put into bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// up or down by chance, so that the mean is right (arXiv:1502.02551): no memory, and a little noise.
    Stochastic,
    /// what was lost is kept in a second bf16 number and added before the next update (Kahan 1965): 2 bytes a weight, no noise.
    Kahan,
    /// to the nearest number: small updates are lost. To compare with.
    Nearest,
}

impl Rounding {
    /// The name as it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Rounding::Stochastic => "stochastic",
            Rounding::Kahan => "kahan",
            Rounding::Nearest => "nearest",
        }
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
