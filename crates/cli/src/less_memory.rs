//! What the memory of a run goes to, and which settings make it less: what is said where there is too little.

use sdtrain_recipe::{Plan, TrainConfig};

use crate::args::ConfigArgs;
use crate::commands::check::trained_parts;
use crate::estimate::{Estimate, estimate};
use crate::model_parts::ModelParts;
use crate::{ExitCode, Failure, model_tokenizer};
use sdtrain_tokenizer::Tokenizer;

/// How many ways out are named.
const WAYS: usize = 3;
/// A way out takes at most this share of the memory.
const WORTH_IT: f64 = 0.95;

/// The failure of the run of `args`, or of its stage of this `index`, that found too little memory, as `message` says: what it takes by
/// `sdtrain check`, and the settings that make it take less, those first that cost least.
pub fn too_little_memory(args: &ConfigArgs, index: usize, message: &str) -> Failure {
    let Some((config, now)) = estimated(args, index, &[]) else {
        return Failure::new(ExitCode::DeviceMemory, message);
    };
    let message = format!("{message}; by `sdtrain check` the run takes {}", now.in_words());
    let worth_it = |changes: Vec<String>| {
        let (_, then) = estimated(args, index, &changes)?;
        let changes = changes.join("` with `");
        (then.bytes < WORTH_IT * now.bytes).then(|| format!("`--set {changes}` (about {:.1} GB)", then.bytes / 1e9))
    };
    let ways: Vec<String> = candidates(&config).into_iter().filter_map(worth_it).take(WAYS).collect();
    let hint = match ways.is_empty() {
        true => "a smaller `data.resolution` or a LoRA in place of whole weights takes less".to_owned(),
        false => ways.join(", or "),
    };
    Failure::new(ExitCode::DeviceMemory, message).hint(hint)
}

/// The configuration with these keys set besides, and what it would take; none where it is not valid.
fn estimated(args: &ConfigArgs, index: usize, changes: &[String]) -> Option<(TrainConfig, Estimate)> {
    let set: Vec<String> = args.set.iter().chain(changes).cloned().collect();
    let config = Plan::load(&args.config, &set).ok()?.runs.into_iter().nth(index)?.loaded.config;
    let parts = ModelParts::of(&config.model).ok()?;
    let trained = trained_parts(&config, &parts).ok()?.sum();
    let tokenizer = model_tokenizer::of(&config.model).ok()?;
    let windows = tokenizer.windows_of(config.model.max_token_length.map(|length| length as usize)).ok()?;
    let estimate = estimate(&config, &parts, trained, windows * tokenizer.window(), 1);
    Some((config, estimate))
}

/// Changes of keys that may help, what costs least first.
fn candidates(config: &TrainConfig) -> Vec<Vec<String>> {
    let largest = config.data.batchings().iter().map(|batching| batching.batch_size).max().unwrap_or(1);
    let accumulated = config.train.gradient_accumulation_steps;
    // The same steps in smaller parts.
    let parts = [
        format!("data.batch_size={}", largest.div_ceil(2)),
        format!("train.gradient_accumulation_steps={}", 2 * accumulated),
    ];
    let one = |change: &str| vec![change.to_owned()];
    vec![
        one("data.cache_latents=true"),
        one("data.cache_text_encoder_outputs=true"),
        one("precision.compute=bf16"),
        one("train.gradient_checkpointing=true"),
        parts.to_vec(),
        one("train.fused_backward=true"),
        one("optimizer.type=adamw_8bit"),
        one("precision.weights=bf16"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What is said of a run of the built-in base with `keys`.
    fn said(keys: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("run.toml");
        std::fs::write(&config, format!("[model]\npath = \"builtin:poster-tiny\"\n{keys}")).unwrap();
        let failure = too_little_memory(&ConfigArgs { config, set: Vec::new() }, 0, "out of memory");
        assert_eq!(failure.code, ExitCode::DeviceMemory);
        failure.problems.to_string()
    }

    #[test]
    fn the_message_says_what_takes_the_memory_and_which_settings_take_less() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/posters");
        let data = format!("[[data.subsets]]\npath = {folder:?}\n");
        let plain = said(&format!("[train]\nmax_steps = 3\n[data]\nresolution = 512\nbatch_size = 8\n{data}"));
        assert!(
            plain.contains("GB activations") && plain.contains("--set train.gradient_checkpointing=true"),
            "{plain}"
        );
        assert!(plain.contains("--set data.batch_size=4` with `train.gradient_accumulation_steps=2"), "{plain}");
        // What is set already is no way out, nor what would be refused.
        let narrow = said(&format!(
            "[train]\nmax_steps = 3\ngradient_checkpointing = true\n[precision]\ncompute = \"bf16\"\n[data]\nresolution = 512\n{data}"
        ));
        assert!(
            !narrow.contains("set train.gradient_checkpointing") && !narrow.contains("precision.compute=bf16"),
            "{narrow}"
        );
    }
}
