//! Whether the disk has room for what a run keeps: asked before half a minute goes into loading a model.

use std::path::Path;

use sdtrain_files::{free_space, in_words};
use sdtrain_recipe::TrainConfig;

use crate::estimate::Trained;
use crate::{ExitCode, Failure};

/// Refuses an output folder on a disk that cannot hold the checkpoints of a run and its product.
pub(crate) fn check(config: &TrainConfig, trained: Trained, output: &Path) -> Result<(), Failure> {
    // The folder need not be there yet: it will lie on the disk of the first one above it that is.
    let absolute = std::path::absolute(output).unwrap_or_else(|_| output.to_owned());
    let Some(free) = absolute.ancestors().find(|folder| folder.is_dir()).and_then(free_space) else { return Ok(()) };
    let coming = config.checkpoint.still_to_come(&output.join("checkpoints"));
    let one = checkpoint_bytes(config, trained);
    let product = trained.parameters as u64 * config.precision.save.bytes();
    let needed = one.saturating_mul(coming).saturating_add(product);
    if free >= needed {
        return Ok(());
    }
    let message = format!(
        "`{}`: its disk has {} left, and the run writes about {}: {coming} checkpoints of {} and the product of {}",
        output.display(),
        in_words(free),
        in_words(needed),
        in_words(one),
        in_words(product)
    );
    Err(Failure::new(ExitCode::Storage, message)
        .hint("free some space, lower `checkpoint.keep_last`, or choose another disk with `--output`"))
}

/// A checkpoint: the weights as they are kept, what the optimizer has for them, and their average.
fn checkpoint_bytes(config: &TrainConfig, trained: Trained) -> u64 {
    let weights = trained.parameters * config.precision.weight_bytes();
    let average = if config.ema.enabled { trained.parameters * 4 } else { 0 };
    (weights + trained.kept_state_bytes(config) + average) as u64
}

#[cfg(test)]
mod tests {
    use sdtrain_recipe::{AdamW8bitConfig, OptimizerConfig, StoredType};

    use super::*;

    fn refusal(parameters: usize) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let trained = Trained { parameters, state_bytes: 8 * parameters };
        let refused = check(&TrainConfig::default(), trained, &folder.path().join("outputs/run")).err()?;
        assert_eq!(refused.code, ExitCode::Storage);
        Some(refused.problems.to_string())
    }

    #[test]
    fn a_run_that_fits_on_no_disk_is_refused_before_its_model_is_loaded() {
        assert!(refusal(1_000_000).is_none());
        let refused = refusal(1 << 50).expect("no disk has this room");
        assert!(refused.contains("3 checkpoints of") && refused.contains("outputs/run"), "{refused}");
    }

    #[test]
    fn everything_that_is_kept_counts() {
        let trained = Trained { parameters: 10, state_bytes: 80 };
        let mut config = TrainConfig::default();
        assert_eq!(checkpoint_bytes(&config, trained), 120);
        config.ema.enabled = true;
        config.precision.weights = StoredType::Bf16;
        config.precision.optimizer_state = StoredType::Bf16;
        assert_eq!(checkpoint_bytes(&config, trained), 20 + 40 + 40);
    }

    #[test]
    fn state_in_eight_bits_is_not_halved_once_more() {
        let trained = Trained { parameters: 10, state_bytes: 20 };
        let optimizer = OptimizerConfig::AdamW8bit(AdamW8bitConfig::default());
        let mut config = TrainConfig { optimizer, ..TrainConfig::default() };
        config.precision.optimizer_state = StoredType::Bf16;
        assert_eq!(checkpoint_bytes(&config, trained), 40 + 20);
    }
}
