//! What `check` says of an optimizer beside its name and its rate.

use sdtrain_recipe::{StoredType, TrainConfig};

use super::millions;
use crate::group_rates::short;
use crate::trained::Trained;

/// In which format it keeps its state, where that is not all in fp32 as a matter of course; to be read behind a list.
pub(super) fn stored_state(config: &TrainConfig) -> &'static str {
    // What it keeps for one matrix tells.
    const MATRIX: [usize; 2] = [2, 2];
    let optimizer = config.optimizer.settings();
    if config.precision.optimizer_state == StoredType::Fp32 {
        return "";
    }
    if optimizer.quantizes_state() {
        return ", optimizer state in 8 bits, as without `precision.optimizer_state`";
    }
    match (optimizer.state_bytes(&MATRIX), optimizer.large_state_bytes(&MATRIX)) {
        (0, _) => ", no optimizer state, whatever `precision.optimizer_state` is",
        (_, 0) => ", rows and columns of the optimizer state in fp32, whatever `precision.optimizer_state` is",
        (all, large) if large < all => ", optimizer state in bf16 where it is as large as the weights, else in fp32",
        _ => ", optimizer state in bf16",
    }
}

/// What it leaves to AdamW, and at which rate.
pub(super) fn rest(config: &TrainConfig, trained: Trained) -> Option<String> {
    let optimizer = config.optimizer.settings();
    let (adamw, _) = optimizer.rest().filter(|_| trained.rest > 0)?;
    let [own, of_rest] =
        [optimizer.learning_rate(), adamw.learning_rate].map(|rate| rate * config.learning_rate_scale());
    Some(format!(
        "{} of {} parameters are in no matrix (kernels, biases, norms, tables of words): AdamW's, at {} where matrices learn at {}, which \
         is what logs show",
        millions(trained.rest),
        millions(trained.parameters),
        short(of_rest),
        short(own)
    ))
}

#[cfg(test)]
mod tests {
    use sdtrain_recipe::OptimizerConfig;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_is_said_to_be_in_bf16_where_it_is() {
        let mut config = TrainConfig::default();
        assert_eq!(stored_state(&config), "", "it is fp32");
        config.precision.optimizer_state = StoredType::Bf16;
        for (optimizer, expected) in [
            (json!({"type": "adamw"}), ", optimizer state in bf16"),
            (json!({"type": "muon"}), ", optimizer state in bf16"),
            (json!({"type": "sgd", "momentum": 0.9}), ", optimizer state in bf16"),
            (json!({"type": "sgd"}), ", no optimizer state, "),
            (json!({"type": "adafactor"}), ", rows and columns of the optimizer state in fp32, "),
            (json!({"type": "adafactor", "beta1": 0.9}), ", optimizer state in bf16 where it is as large "),
            (json!({"type": "came"}), ", optimizer state in bf16 where it is as large "),
            (json!({"type": "adamw_8bit"}), ", optimizer state in 8 bits, "),
        ] {
            config.optimizer = serde_json::from_value::<OptimizerConfig>(optimizer.clone()).expect("our own settings");
            let said = stored_state(&config);
            assert!(said.starts_with(expected), "{optimizer}: {said}");
        }
    }
}
