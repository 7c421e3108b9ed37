//! What the product of a run is called, and which keys make another of what the run has learned.

use std::path::{Path, PathBuf};

use crate::{HandedOn, LoraFormat, TrainConfig, Words};

/// What stands behind the name of a product that holds the weights as trained, beside the one of averaged weights.
pub const RAW: &str = "-raw";

impl TrainConfig {
    /// The product of this run in its folder: of several files the one that the next stage begins with.
    pub fn product_in(&self, folder: &Path) -> PathBuf {
        folder.join(self.main_file(&self.name))
    }

    /// Every file, or folder of a model, that the product of this run has in its folder.
    pub fn products_in(&self, folder: &Path) -> Vec<PathBuf> {
        let raw = self.ema.save_raw.then(|| format!("{}{RAW}", self.name));
        let stems = std::iter::once(self.name.clone()).chain(raw);
        stems.flat_map(|stem| self.files_called(&stem)).map(|name| folder.join(name)).collect()
    }

    /// Whether a product is another one where `key` is, although the run has learned the same.
    pub fn decides_product(&self, key: &str) -> bool {
        let facts = self.trainable_facts();
        match key {
            "name" | "precision.save" => true,
            "lora.format" => facts.trains_adapters(),
            "full.format" => facts.trains_weights(),
            _ => false,
        }
    }

    /// What makes the product of this run that of `before`, which has learned the same.
    pub fn with_product_of(mut self, before: &TrainConfig) -> TrainConfig {
        self.name.clone_from(&before.name);
        self.precision.save = before.precision.save;
        self.lora.format = before.lora.format;
        self.full.format = before.full.format;
        self.ema.save_raw = before.ema.save_raw;
        self
    }

    fn main_file(&self, stem: &str) -> String {
        match self.trainable_facts().hands_on {
            HandedOn::Model | HandedOn::Vae => self.full.format.file_name(stem),
            HandedOn::Adapters | HandedOn::Words => format!("{stem}.safetensors"),
        }
    }

    /// Names of the files of a product called `stem`, as the trainer writes them.
    fn files_called(&self, stem: &str) -> Vec<String> {
        let facts = self.trainable_facts();
        let mut names = vec![self.main_file(stem)];
        if facts.trains_adapters() && self.lora.format == LoraFormat::Both {
            names.push(format!("{stem}-peft.safetensors"));
        }
        // A word that is all there is has the first file for its own.
        let have_own_files = match facts.words {
            Words::Never => false,
            Words::Beside => true,
            Words::Alone => self.textual_inversion.tokens.len() > 1,
        };
        if have_own_files {
            names.extend(self.textual_inversion.word_files(stem));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LearnedTokenConfig, ModelFormat, TrainableKind};

    fn names(config: &TrainConfig) -> Vec<String> {
        config.products_in(Path::new("")).iter().map(|path| path.display().to_string()).collect()
    }

    fn of(kind: TrainableKind) -> TrainConfig {
        TrainConfig { name: "run".into(), trainable: Some(kind), ..TrainConfig::default() }
    }

    #[test]
    fn every_file_of_a_product_is_named() {
        let mut lora = of(TrainableKind::Lora);
        assert_eq!(names(&lora), ["run.safetensors"]);
        lora.lora.format = LoraFormat::Both;
        lora.ema.save_raw = true;
        let both = ["run.safetensors", "run-peft.safetensors", "run-raw.safetensors", "run-raw-peft.safetensors"];
        assert_eq!(names(&lora), both);
        let mut full = of(TrainableKind::Full);
        full.full.format = ModelFormat::Diffusers;
        assert_eq!(names(&full), ["run"]);
        let mut words = of(TrainableKind::TextualInversion);
        let word = |word: &str| LearnedTokenConfig { word: word.into(), ..Default::default() };
        words.textual_inversion.tokens = vec![word("snorp")];
        assert_eq!(names(&words), ["run.safetensors"]);
        words.textual_inversion.tokens.push(word("blick"));
        assert_eq!(names(&words), ["run.safetensors", "run-snorp.safetensors", "run-blick.safetensors"]);
        words.trainable = Some(TrainableKind::Lora);
        words.textual_inversion.tokens.pop();
        assert_eq!(names(&words), ["run.safetensors", "run-snorp.safetensors"]);
    }

    #[test]
    fn a_format_decides_only_the_product_that_it_is_the_format_of() {
        for (kind, key, decides) in [
            (TrainableKind::Lora, "lora.format", true),
            (TrainableKind::Lora, "full.format", false),
            (TrainableKind::Vae, "full.format", true),
            (TrainableKind::Full, "lora.format", false),
            (TrainableKind::TextualInversion, "precision.save", true),
            (TrainableKind::Full, "name", true),
            (TrainableKind::Full, "log.every_steps", false),
        ] {
            assert_eq!(of(kind).decides_product(key), decides, "{kind:?}: {key}");
        }
    }
}
