//! Whether the disk has room for what a run keeps: asked before half a minute goes into loading a model.

use std::path::Path;

use sdtrain_files::{free_space, in_words};
use sdtrain_recipe::{StoredType, TrainConfig};

use crate::{ExitCode, Failure};

/// What learns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Learned {
    pub parameters: u64,
    /// What the optimizer keeps for them in fp32.
    pub state_bytes: u64,
}

/// Refuses an output folder on a disk that cannot hold the checkpoints of a run and its product.
pub(crate) fn check(config: &TrainConfig, learned: Learned, output: &Path) -> Result<(), Failure> {
    // The folder need not be there yet: it will lie on the disk of the first one above it that is.
    let absolute = std::path::absolute(output).unwrap_or_else(|_| output.to_owned());
    let Some(free) = absolute.ancestors().find(|folder| folder.is_dir()).and_then(free_space) else { return Ok(()) };
    let (one, coming) = (checkpoint_bytes(config, learned), checkpoints_to_come(config, output));
    let product = learned.parameters * config.precision.save.bytes();
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
fn checkpoint_bytes(config: &TrainConfig, learned: Learned) -> u64 {
    let weights = learned.parameters * config.precision.weight_bytes() as u64;
    let state = match config.precision.optimizer_state {
        StoredType::Fp32 => learned.state_bytes,
        StoredType::Bf16 => learned.state_bytes / 2,
    };
    let average = if config.ema.enabled { learned.parameters * 4 } else { 0 };
    weights + state + average
}

/// Those that are kept and not there yet, and the one that is written before the oldest goes; none where none are written.
fn checkpoints_to_come(config: &TrainConfig, output: &Path) -> u64 {
    let entries = std::fs::read_dir(output.join("checkpoints")).into_iter().flatten().flatten();
    let there = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("step-")).count();
    // The last step writes one whatever the configuration says.
    let kept = if config.checkpoint.every().is_never() { 0 } else { config.checkpoint.keep_last.max(1) };
    (kept + 1).saturating_sub(there).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(parameters: u64) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let learned = Learned { parameters, state_bytes: 8 * parameters };
        let refused = check(&TrainConfig::default(), learned, &folder.path().join("outputs/run")).err()?;
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
    fn checkpoints_that_are_there_need_no_more_room() {
        let folder = tempfile::tempdir().unwrap();
        let config = TrainConfig::default();
        assert_eq!(checkpoints_to_come(&config, folder.path()), 3);
        for step in ["step-000001", "step-000002", "step-000003", "step-000004"] {
            std::fs::create_dir_all(folder.path().join("checkpoints").join(step)).unwrap();
        }
        assert_eq!(checkpoints_to_come(&config, folder.path()), 1, "there is always one more");
    }

    #[test]
    fn everything_that_is_kept_counts() {
        let learned = Learned { parameters: 10, state_bytes: 80 };
        let mut config = TrainConfig::default();
        assert_eq!(checkpoint_bytes(&config, learned), 120);
        config.ema.enabled = true;
        config.precision.weights = StoredType::Bf16;
        config.precision.optimizer_state = StoredType::Bf16;
        assert_eq!(checkpoint_bytes(&config, learned), 20 + 40 + 40);
    }
}
