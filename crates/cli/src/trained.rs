//! How much learns, and what the optimizer keeps for it.

use std::ops::Add;

use sdtrain_recipe::{OptimizerSettings, StoredType, TrainConfig};

/// What learns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trained {
    pub parameters: usize,
    /// What the optimizer keeps for them, where it keeps running means in fp32.
    pub state_bytes: usize,
    /// What of it is as large as the weights: in bf16 it is half.
    pub large_state_bytes: usize,
    /// Parameters that the optimizer leaves to another rule ([`OptimizerSettings::rest`]).
    pub rest: usize,
}

impl Add for Trained {
    type Output = Trained;

    fn add(self, other: Trained) -> Trained {
        Trained {
            parameters: self.parameters + other.parameters,
            state_bytes: self.state_bytes + other.state_bytes,
            large_state_bytes: self.large_state_bytes + other.large_state_bytes,
            rest: self.rest + other.rest,
        }
    }
}

impl Trained {
    /// The tensor `name` of `shape`.
    pub fn of_tensor(optimizer: &dyn OptimizerSettings, name: &str, shape: &[usize]) -> Trained {
        let is_of_rest = optimizer.is_of_rest(name, shape.len());
        match optimizer.rest().filter(|_| is_of_rest) {
            Some((adamw, _)) => {
                let trained = Trained::by_rule(adamw, shape);
                Trained { rest: trained.parameters, ..trained }
            }
            None => Trained::by_rule(optimizer, shape),
        }
    }

    fn by_rule(rule: &dyn OptimizerSettings, shape: &[usize]) -> Trained {
        Trained {
            parameters: shape.iter().product(),
            state_bytes: rule.state_bytes(shape),
            large_state_bytes: rule.large_state_bytes(shape),
            rest: 0,
        }
    }

    /// What the optimizer keeps for them in the format that `config` asks for.
    pub fn kept_state_bytes(self, config: &TrainConfig) -> usize {
        match config.precision.optimizer_state {
            StoredType::Fp32 => self.state_bytes,
            StoredType::Bf16 => self.state_bytes - self.large_state_bytes / 2,
        }
    }

    /// What an update has in fp32 beside what is kept in bf16, where the optimizer works on all tensors at once: weights with their
    /// gradients, and its state.
    pub fn unpacked_bytes(self, config: &TrainConfig) -> usize {
        let precision = &config.precision;
        let is_unpacked =
            |kept: StoredType| kept == StoredType::Bf16 && config.optimizer.settings().needs_all_tensors();
        let weights = if is_unpacked(precision.weights) { 2 * self.parameters * StoredType::Fp32.bytes() } else { 0 };
        let state = if is_unpacked(precision.optimizer_state) { self.large_state_bytes } else { 0 };
        weights + state
    }
}

#[cfg(test)]
mod tests {
    use sdtrain_recipe::{MuonConfig, OptimizerConfig};
    use serde_json::json;

    use super::*;

    /// As `optimizer/src/apart.rs` puts into bf16 what has as many numbers as the weights, and nothing else.
    #[test]
    fn rows_columns_and_codes_stay_as_they_are_beside_a_state_in_bf16() {
        let mut config = TrainConfig::default();
        config.precision.optimizer_state = StoredType::Bf16;
        let mut each = |optimizer: serde_json::Value| {
            config.optimizer = serde_json::from_value::<OptimizerConfig>(optimizer).expect("our own settings");
            let shapes: [&[usize]; 2] = [&[320, 320, 3, 3], &[320]];
            let settings = config.optimizer.settings();
            let trained = shapes.map(|shape| Trained::of_tensor(settings, "weight", shape));
            let trained = trained.into_iter().fold(Trained::default(), Add::add);
            trained.kept_state_bytes(&config) as f64 / trained.parameters as f64
        };
        for (optimizer, expected) in [
            (json!({"type": "adamw"}), 4.0),
            // Six numbers for each nine, and for CAME the same twice beside a momentum in bf16.
            (json!({"type": "adafactor"}), 4.0 * 6.0 / 9.0),
            (json!({"type": "came"}), 2.0 + 2.0 * 4.0 * 6.0 / 9.0),
            (json!({"type": "adamw_8bit"}), 2.0 + 8.0 / 256.0),
            (json!({"type": "prodigy", "slice_p": 9}), 4.0 + 8.0 / 9.0),
            (json!({"type": "sgd"}), 0.0),
        ] {
            let found = each(optimizer.clone());
            assert!((found - expected).abs() < 0.01, "{optimizer}: {found}, not {expected}");
        }
    }

    /// A momentum of four bytes for matrices, AdamW's two means for the rest.
    #[test]
    fn what_muon_leaves_to_adamw_has_adamws_state() {
        let muon = OptimizerConfig::Muon(MuonConfig::default());
        let of = |name: &str, shape: &[usize]| {
            let trained = Trained::of_tensor(muon.settings(), name, shape);
            (trained.state_bytes, trained.rest)
        };
        assert_eq!(of("unet.mid_block.attentions.0.proj_in.weight", &[8, 4]), (4 * 32, 0));
        assert_eq!(of("unet.conv_in.weight", &[8, 4, 3, 3]), (8 * 288, 288));
        assert_eq!(of("text_encoder.text_model.embeddings.token_embedding.weight", &[300, 32]), (8 * 9600, 9600));
        assert_eq!(of("text_encoder.learned_tokens.snorp", &[2, 32]), (8 * 64, 64));
        let adamw = OptimizerConfig::default();
        assert_eq!(Trained::of_tensor(adamw.settings(), "unet.conv_in.weight", &[8, 4, 3, 3]).rest, 0);
    }
}
