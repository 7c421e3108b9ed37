//! `[optimizer]`: the choices of `type`; the settings of each are a file beside this one.

mod adafactor;
mod adamw;
mod adamw_8bit;
mod adamw_schedule_free;
mod came;
mod dadapt_adam;
mod lion;
mod muon;
mod prodigy;
mod sgd;

pub use adafactor::AdafactorConfig;
pub use adamw::AdamWConfig;
pub use adamw_8bit::AdamW8bitConfig;
pub use adamw_schedule_free::AdamWScheduleFreeConfig;
pub use came::CameConfig;
pub use dadapt_adam::DAdaptAdamConfig;
pub use lion::LionConfig;
pub use muon::{MuonAdjustment, MuonConfig};
pub use prodigy::ProdigyConfig;
pub use sgd::SgdConfig;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LrScheduleConfig, Ranges};

/// How weights follow their gradients; `type` chooses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OptimizerConfig {
    /// Adam with decoupled weight decay (arXiv:1711.05101).
    #[serde(rename = "adamw")]
    AdamW(AdamWConfig),
    /// AdamW whose running means are kept in 8 bits (arXiv:2110.02861): a quarter of its memory.
    #[serde(rename = "adamw_8bit")]
    AdamW8bit(AdamW8bitConfig),
    /// Keeps a row and a column in place of the squares of a matrix's gradients (arXiv:1804.04235): almost no memory.
    Adafactor(AdafactorConfig),
    /// Goes by the sign of a running mean of the gradients (arXiv:2302.06675): half of AdamW's memory.
    Lion(LionConfig),
    /// Gradient descent, with or without momentum.
    Sgd(SgdConfig),
    /// AdamW that finds its learning rate by itself (arXiv:2306.06101).
    Prodigy(ProdigyConfig),
    /// Adam that finds its learning rate by itself (arXiv:2301.07733), Prodigy's predecessor.
    DadaptAdam(DAdaptAdamConfig),
    /// AdamW that averages its weights in place of letting the rate fall (arXiv:2405.15682).
    #[serde(rename = "adamw_schedule_free")]
    AdamWScheduleFree(AdamWScheduleFreeConfig),
    /// Adafactor with a momentum that counts as far as it can be trusted (arXiv:2307.02047).
    Came(CameConfig),
    /// Momentum made orthogonal for matrices (Jordan et al. 2024), AdamW for everything else.
    Muon(MuonConfig),
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig::AdamW(AdamWConfig::default())
    }
}

/// What every optimizer's settings answer.
pub trait OptimizerSettings {
    /// The name as it is written in a configuration.
    fn name(&self) -> &'static str;

    /// The learning rate before any schedule; 1 where it was left to the optimizer.
    fn learning_rate(&self) -> f64;

    /// Bytes that it keeps for a trained tensor of `shape` from one step to the next.
    fn state_bytes(&self, shape: &[usize]) -> usize;

    /// Of these, those of tensors as large as the trained one: `precision.optimizer_state = "bf16"` halves them, and leaves the rest as
    /// it is.
    fn large_state_bytes(&self, shape: &[usize]) -> usize {
        self.state_bytes(shape)
    }

    /// Of `state_bytes`, those of the weights that a tensor of `shape` begins with. Where all of them are zero it keeps none.
    fn first_weight_bytes(&self, _shape: &[usize]) -> usize {
        0
    }

    /// Reports settings that are out of range or contradict each other.
    fn check(&self, ranges: &mut Ranges);

    /// Whether it finds the size of its steps by itself, for all parameters together: then they cannot have rates of
    /// their own.
    fn finds_its_rate(&self) -> bool {
        false
    }

    /// How strongly it pulls weights towards zero, times the learning rate, each step, apart from what it makes of gradients; 0 where
    /// the pull goes another way, or the rate is not what is set.
    fn decoupled_decay(&self) -> f64 {
        0.0
    }

    /// Whether a step of one tensor depends on the weights and gradients of all: then none can be updated before all gradients
    /// are there. A rate that follows the number of steps alone, as Adafactor's, needs nothing of other tensors.
    fn needs_all_tensors(&self) -> bool {
        false
    }

    /// Whether it averages the weights itself: the product holds the average, which is not what the steps go on with.
    fn averages_weights(&self) -> bool {
        false
    }

    /// Whether its running means take less than bf16 already: `precision.optimizer_state` leaves them as they are.
    fn quantizes_state(&self) -> bool {
        false
    }

    /// AdamW's settings for tensors that it is not made for, where there are such, and how many times its own learning rate theirs is.
    fn rest(&self) -> Option<(&AdamWConfig, f64)> {
        None
    }

    /// Whether the tensor `name`, of so many dimensions, is one of those.
    fn is_of_rest(&self, _name: &str, _dimensions: usize) -> bool {
        false
    }

    /// Why it cannot follow `schedule`, and the way out.
    fn refuses(&self, _schedule: &LrScheduleConfig) -> Option<(String, String)> {
        None
    }
}

impl OptimizerConfig {
    /// What `type` may be.
    pub const NAMES: [&str; 10] = [
        "adamw",
        "adamw_8bit",
        "adafactor",
        "lion",
        "sgd",
        "prodigy",
        "dadapt_adam",
        "adamw_schedule_free",
        "came",
        "muon",
    ];

    /// The settings of the chosen one: the list's one place.
    pub fn settings(&self) -> &dyn OptimizerSettings {
        match self {
            OptimizerConfig::AdamW(settings) => settings,
            OptimizerConfig::AdamW8bit(settings) => settings,
            OptimizerConfig::Adafactor(settings) => settings,
            OptimizerConfig::Lion(settings) => settings,
            OptimizerConfig::Sgd(settings) => settings,
            OptimizerConfig::Prodigy(settings) => settings,
            OptimizerConfig::DadaptAdam(settings) => settings,
            OptimizerConfig::AdamWScheduleFree(settings) => settings,
            OptimizerConfig::Came(settings) => settings,
            OptimizerConfig::Muon(settings) => settings,
        }
    }

    /// The learning rate before any schedule; 1 where it was left to the optimizer.
    pub fn learning_rate(&self) -> f64 {
        self.settings().learning_rate()
    }

    /// The name as it is written in a configuration.
    pub fn name(&self) -> &'static str {
        self.settings().name()
    }

    /// Its name with all its settings but the learning rate, as the metadata of a product has it:
    /// `lion(betas=[0.9,0.99],weight_decay=0.0)`.
    pub fn in_words(&self) -> String {
        let settings = serde_json::to_value(self).unwrap_or_default();
        let settings: Vec<String> = settings
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| !matches!(key.as_str(), "type" | "learning_rate") && !value.is_null())
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        format!("{}({})", self.name(), settings.join(","))
    }
}

/// Bytes of a trained tensor in fp32.
fn bytes_of(shape: &[usize]) -> usize {
    4 * shape.iter().product::<usize>()
}

/// Bytes of the factored mean square of a gradient (arXiv:1804.04235): a row and a column for each matrix of the last
/// two dimensions, or all of it for a vector.
fn factored_bytes(shape: &[usize]) -> usize {
    match shape {
        [leading @ .., rows, columns] => 4 * leading.iter().product::<usize>() * (rows + columns),
        _ => bytes_of(shape),
    }
}

/// Of these, those of rows and columns that are as large as the tensor itself: both of a 1 × 1 convolution, one of a matrix with a single
/// row or column.
fn large_factored_bytes(shape: &[usize]) -> usize {
    match shape {
        [.., rows, columns] => [*rows, *columns].into_iter().filter(|side| *side == 1).count() * bytes_of(shape),
        _ => bytes_of(shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(all, large)` of each shape.
    fn bytes(config: &OptimizerConfig, shapes: &[&[usize]]) -> Vec<(usize, usize)> {
        let settings = config.settings();
        shapes.iter().map(|shape| (settings.state_bytes(shape), settings.large_state_bytes(shape))).collect()
    }

    #[test]
    fn rows_columns_slices_and_codes_are_not_as_large_as_the_weights() {
        let shapes: &[&[usize]] = &[&[64, 32], &[5000], &[8, 4, 1, 1], &[8, 4, 3, 3]];
        let adafactor = OptimizerConfig::Adafactor(AdafactorConfig::default());
        let expected = [(4 * 96, 0), (20_000, 20_000), (4 * 64, 4 * 64), (4 * 32 * 6, 0)];
        assert_eq!(bytes(&adafactor, shapes), expected);
        let momentum = OptimizerConfig::Adafactor(AdafactorConfig { beta1: Some(0.9), ..AdafactorConfig::default() });
        assert_eq!(bytes(&momentum, &shapes[..1]), [(4 * (2048 + 96), 4 * 2048)]);
        let came = OptimizerConfig::Came(CameConfig::default());
        let expected = [
            (4 * (2048 + 2 * 96), 4 * 2048),
            (40_000, 40_000),
            (4 * 32 * 5, 4 * 32 * 5),
            (4 * (288 + 2 * 192), 4 * 288),
        ];
        assert_eq!(bytes(&came, shapes), expected);
        let sliced = OptimizerConfig::Prodigy(ProdigyConfig { slice_p: 11, ..ProdigyConfig::default() });
        assert_eq!(bytes(&sliced, &shapes[1..2]), [(40_000 + 8 * 455, 40_000)]);
        let whole = OptimizerConfig::Prodigy(ProdigyConfig::default());
        assert_eq!(bytes(&whole, &shapes[1..2]), [(80_000, 80_000)]);
        let codes = OptimizerConfig::AdamW8bit(AdamW8bitConfig::default());
        assert_eq!(bytes(&codes, &shapes[..2]), [(8 * 2048, 8 * 2048), (2 * (5000 + 4 * 20), 0)]);
        assert_eq!(bytes(&OptimizerConfig::default(), &shapes[..1]), [(8 * 2048, 8 * 2048)]);
    }
}
