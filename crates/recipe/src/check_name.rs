//! Under which names a run can save what it makes: every file of its product is called by the run's.

use std::path::Path;

use crate::TrainConfig;
use crate::check::Checker;

/// What a file name has at most, in bytes: `NAME_MAX` of Linux, of all its file systems.
const MOST_BYTES: usize = 255;

/// What stands around the run's name, and what tells the files of one product apart, while the raw weights of the largest step are
/// written.
const AROUND: &str = ".-step9223372036854775807-raw.safetensors.partial";

/// What a LoRA in both forms has in its second file's name.
const PEFT: &str = "-peft";

/// What lies in the folder of a run beside its product, under the same name whatever the run is called.
const OF_THE_FOLDER: [&str; 14] = [
    "checkpoints",
    "checkpoints-set-aside",
    "class_images",
    "class_images.jsonl",
    "config.toml",
    "evaluation.csv",
    "evaluation.json",
    "metrics.jsonl",
    "not-finite",
    "profile",
    "run.json",
    "samples",
    "scalars.jsonl",
    "tensorboard",
];

impl Checker<'_> {
    pub(crate) fn check_name(&mut self, config: &TrainConfig) {
        if let Some((message, hint)) = config.name_refused() {
            self.report("name", message).hint = Some(hint);
        }
    }
}

impl TrainConfig {
    /// Why nothing can be saved under the run's name, and the way out. Without this it is the last step that finds out.
    pub(crate) fn name_refused(&self) -> Option<(String, String)> {
        let name = &self.name;
        if name.contains(char::is_control) {
            // Escaped, so that the message does not move the cursor of who reads it.
            let message = format!("`name` must be without control characters, and is {name:?}");
            return Some((message, "files and messages have it in them: letters, digits, `-` and `_` do".to_owned()));
        }
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            let message = format!("`name` must be a plain file name, not \"{name}\"");
            return Some((message, "the output folder is chosen with `--output`".to_owned()));
        }
        let of_words = self.learned_tokens().iter().map(|token| token.file_stem().len() + "-".len()).max();
        let most = MOST_BYTES.saturating_sub(AROUND.len() + PEFT.len().max(of_words.unwrap_or(0)));
        if name.len() > most {
            let message = format!("`name` has {} bytes, and at most {most} can be saved under", name.len());
            let hint = format!(
                "files are called by it, with the step, the part and an ending behind, and a file name has at most {MOST_BYTES} bytes"
            );
            return Some((message, hint));
        }
        // A file has an ending behind the name; a folder is called by it alone.
        let product = self.product_in(Path::new(""));
        let taken = OF_THE_FOLDER.into_iter().find(|own| product.as_path() == Path::new(own))?;
        let message =
            format!("the product cannot be called `{taken}`: a run has something else of this name in its folder");
        Some((message, "choose another name, or set `full.format = \"single_file\"`".to_owned()))
    }
}
