//! `lora.kind`: the members of the LoRA family, and how many numbers each of them trains.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::LoraConfig;

/// What stands beside a frozen weight `W`, here with `s` = alpha / rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdapterKind {
    /// `W + s · B·A`, of low rank (arXiv:2106.09685); with `lora.convolutions` known as LoCon.
    Lora,
    /// `W + s · (B₁·A₁) ∘ (B₂·A₂)`, element by element: of rank up to rank² for twice the numbers (arXiv:2108.06098).
    Loha,
    /// `W + s · C ⊗ (B·A)`, a Kronecker product: the smallest files (arXiv:2212.10650).
    Lokr,
    /// `m · (W + s · B·A) / ‖W + s · B·A‖` by rows: direction and length are learned apart (arXiv:2402.09353).
    Dora,
    /// Each channel is multiplied by a learned number (arXiv:2205.05638): a few kilobytes, for small changes.
    Ia3,
    /// `W + D`, the whole difference: full fine-tuning that is kept beside the model.
    Full,
}

impl AdapterKind {
    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            AdapterKind::Lora => "lora",
            AdapterKind::Loha => "loha",
            AdapterKind::Lokr => "lokr",
            AdapterKind::Dora => "dora",
            AdapterKind::Ia3 => "ia3",
            AdapterKind::Full => "full",
        }
    }

    /// As it is usually written.
    pub fn title(self) -> &'static str {
        match self {
            AdapterKind::Lora => "LoRA",
            AdapterKind::Loha => "LoHa",
            AdapterKind::Lokr => "LoKr",
            AdapterKind::Dora => "DoRA",
            AdapterKind::Ia3 => "(IA)³",
            AdapterKind::Full => "full difference",
        }
    }

    /// Whether `lora.rank` and `lora.alpha` mean anything for it.
    pub fn has_rank(self) -> bool {
        !matches!(self, AdapterKind::Ia3 | AdapterKind::Full)
    }

    /// The numbers that it trains beside a weight of `shape`, `[outputs, inputs]` or `[outputs, inputs, kernel, kernel]`,
    /// of the layer `full_path` (`unet.…`).
    pub fn numbers(
        self,
        config: &LoraConfig,
        full_path: &str,
        rank: usize,
        shape: &[usize],
        has_bias: bool,
    ) -> AdapterNumbers {
        let outputs = shape[0];
        let fan_in: usize = shape[1..].iter().product();
        let low_rank = rank * (outputs + fan_in);
        // Beside a convolution what has the layer's own sizes has a kernel, be it of 1 × 1.
        let beside_matrix = |numbers: usize| if shape.len() == 2 { numbers } else { 0 };
        let (all, in_matrices, zeros) = match self {
            AdapterKind::Lora => (low_rank, beside_matrix(low_rank), rank * outputs),
            AdapterKind::Loha => (2 * low_rank, 2 * low_rank, rank * outputs),
            AdapterKind::Lokr => {
                let factors = config.lokr.factors(outputs, shape[1], shape[2..].iter().product(), rank);
                let (small, large) = factors.parameter_counts(rank);
                let (in_large, zeros) = match factors.large_is_split {
                    true => (large, rank * factors.large.1 * factors.kernel),
                    false => (beside_matrix(large), large),
                };
                (small + large, small + in_large, zeros)
            }
            AdapterKind::Dora => (low_rank + outputs, beside_matrix(low_rank), rank * outputs),
            AdapterKind::Ia3 => {
                let channels = if config.ia3.is_on_input(full_path) { shape[1] } else { outputs };
                (channels, 0, channels)
            }
            AdapterKind::Full => {
                let all = outputs * fan_in + if has_bias { outputs } else { 0 };
                (all, beside_matrix(outputs * fan_in), all)
            }
        };
        AdapterNumbers { all, in_matrices, zeros }
    }
}

/// How many numbers an adapter trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterNumbers {
    /// All of them.
    pub all: usize,
    /// Those in tensors of two dimensions.
    pub in_matrices: usize,
    /// Those in tensors that begin as zeros, so that a new adapter changes nothing.
    pub zeros: usize,
}
