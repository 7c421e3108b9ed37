//! Words that the model does not know yet: their vectors, and nothing else (Gal et al. 2022, arXiv:2208.01618).
//!
//! The vectors are leaves of their own and no rows of the embedding table, so that nothing else of it can change: neither by
//! weight decay nor by an optimizer's means. Clipping sees their gradient alone.

use super::Trainable;
use crate::error::{Error, Result};
use sdtrain_adapter::{WordNaming, add_to_lora_file, new_word, write_learned_words};
use sdtrain_model::{LearnedWord, StableDiffusion};
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{EmbeddingFormat, TextualInversionConfig, TrainConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// Words in training, alone.
pub struct TextualInversion {
    words: Vec<LearnedWord>,
    config: TextualInversionConfig,
    learning_rate: f64,
    /// Names of the text encoders that the words have vectors for.
    text_encoders: Vec<&'static str>,
    /// The length that every vector of each text encoder has, where it is kept.
    norms: Option<Vec<f64>>,
}

impl TextualInversion {
    /// Makes the words of `config` and adds them to the model's.
    pub fn new(config: &TrainConfig, model: &StableDiffusion) -> Result<TextualInversion> {
        let section = &config.textual_inversion;
        let new = |token| new_word(token, config.seed, model);
        let words = section.tokens.iter().map(new).collect::<sdtrain_adapter::Result<Vec<_>>>()?;
        for vectors in words.iter().flat_map(|word| &word.vectors) {
            let _ = vectors.set_requires_grad(true);
        }
        let same = |word: &LearnedWord| LearnedWord {
            word: word.word.clone(),
            vectors: word.vectors.iter().map(Tensor::shallow_clone).collect(),
        };
        model.add_words(words.iter().map(same).collect()).map_err(|error| match error {
            sdtrain_model::Error::Tokenizer(error) => {
                Error::Config { message: format!("`textual_inversion.tokens`: {error}"), hint: error.hint() }
            }
            error => error.into(),
        })?;
        let trained = TextualInversion {
            words,
            config: section.clone(),
            learning_rate: section.learning_rate.unwrap_or(config.optimizer.learning_rate()),
            text_encoders: model.text_encoders.iter().map(|encoder| encoder.name).collect(),
            norms: section.preserve_norm.then(|| median_norms(model)).transpose()?,
        };
        trained.after_optimizer_step()?;
        Ok(trained)
    }

    /// Writes one file of all words called `stem`, unless something else is (`beside`), and, where that does not say it all, one
    /// of each.
    fn save_words(
        &self,
        folder: &Path,
        stem: &str,
        beside: bool,
        kind: Kind,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<PathBuf>> {
        let mut metadata = metadata.clone();
        if let Some(architecture) = metadata.get_mut("modelspec.architecture") {
            let family = architecture.split('/').next().unwrap_or_default();
            *architecture = format!("{family}/textual-inversion");
        }
        let naming = match self.config.format {
            EmbeddingFormat::Diffusers => WordNaming::Word,
            EmbeddingFormat::Kohya => WordNaming::EmbParams,
        };
        let mut paths = Vec::new();
        for (name, words) in self.files(stem, beside) {
            let path = folder.join(name);
            write_learned_words(&path, words, naming, kind, &metadata)?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// Names of the files with what is in each.
    fn files(&self, stem: &str, beside: bool) -> Vec<(String, &[LearnedWord])> {
        let each = self.config.word_files(stem).zip(self.words.chunks(1));
        match (beside, self.words.len()) {
            (true, _) => each.collect(),
            (false, 1) => vec![(format!("{stem}.safetensors"), &self.words)],
            (false, _) => std::iter::once((format!("{stem}.safetensors"), &self.words[..])).chain(each).collect(),
        }
    }
}

/// The median length of the vocabulary's vectors in each text encoder.
fn median_norms(model: &StableDiffusion) -> Result<Vec<f64>> {
    let median = |table: &Tensor| lengths(&table.to_kind(Kind::Float)).median().double_value(&[]);
    let tables = model.text_encoders.iter().map(|encoder| encoder.network.token_embedding());
    Ok(sdtrain_torch::catch(|| tables.map(median).collect())?)
}

/// `[rows, size]` → `[rows, 1]`.
fn lengths(vectors: &Tensor) -> Tensor {
    vectors.norm_scalaropt_dim(2, [1i64], true)
}

impl Trainable for TextualInversion {
    fn param_groups(&self, _model: &StableDiffusion) -> Vec<ParamGroup> {
        let of_word = |word: &LearnedWord| -> Vec<(String, Tensor)> {
            let name = |encoder: &&str| format!("{encoder}.learned_tokens.{}", word.word);
            self.text_encoders.iter().map(name).zip(word.vectors.iter().map(Tensor::shallow_clone)).collect()
        };
        let parameters = self.words.iter().flat_map(of_word).collect();
        vec![ParamGroup { name: "learned_tokens".into(), learning_rate: self.learning_rate, parameters }]
    }

    fn after_optimizer_step(&self) -> Result<()> {
        let Some(norms) = &self.norms else { return Ok(()) };
        Ok(sdtrain_torch::catch(|| {
            tch::no_grad(|| {
                let all = self.words.iter().flat_map(|word| word.vectors.iter().zip(norms));
                for (vectors, &norm) in all {
                    let scaled = vectors * norm / lengths(vectors).clamp_min(f64::from(f32::MIN_POSITIVE));
                    vectors.shallow_clone().copy_(&scaled);
                }
            })
        })?)
    }

    fn save(
        &self,
        _model: &StableDiffusion,
        folder: &Path,
        stem: &str,
        kind: Kind,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<PathBuf>> {
        self.save_words(folder, stem, false, kind, metadata)
    }

    fn product_names(&self, stem: &str) -> Vec<String> {
        self.files(stem, false).into_iter().map(|(name, _)| name).collect()
    }

    fn adapter_kind(&self) -> Option<&'static str> {
        Some("textual-inversion")
    }
}

/// Words in training beside something else, each at its own rate (pivotal tuning, Roich et al. 2021, arXiv:2106.05744, as the
/// scripts use the name).
pub struct WithWords {
    other: Box<dyn Trainable>,
    words: TextualInversion,
}

impl WithWords {
    /// `other` and the words of `config`.
    pub fn new(other: Box<dyn Trainable>, config: &TrainConfig, model: &StableDiffusion) -> Result<WithWords> {
        Ok(WithWords { other, words: TextualInversion::new(config, model)? })
    }
}

impl Trainable for WithWords {
    fn param_groups(&self, model: &StableDiffusion) -> Vec<ParamGroup> {
        let mut groups = self.other.param_groups(model);
        groups.extend(self.words.param_groups(model));
        groups
    }

    fn weight_norms(&self) -> Result<Vec<(String, f64)>> {
        self.other.weight_norms()
    }

    fn begin_pass(&self, number: u64) {
        self.other.begin_pass(number);
    }

    fn end_pass(&self) {
        self.other.end_pass();
    }

    fn after_optimizer_step(&self) -> Result<()> {
        self.other.after_optimizer_step()?;
        self.words.after_optimizer_step()
    }

    fn moves_latents(&self) -> bool {
        self.other.moves_latents()
    }

    fn save(
        &self,
        model: &StableDiffusion,
        folder: &Path,
        stem: &str,
        kind: Kind,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<PathBuf>> {
        let mut paths = self.other.save(model, folder, stem, kind, metadata)?;
        if self.words.config.bundle {
            for path in &paths {
                add_to_lora_file(path, &self.words.words, kind)?;
            }
        }
        paths.extend(self.words.save_words(folder, stem, true, kind, metadata)?);
        Ok(paths)
    }

    fn product_names(&self, stem: &str) -> Vec<String> {
        let words = self.words.files(stem, true).into_iter().map(|(name, _)| name);
        self.other.product_names(stem).into_iter().chain(words).collect()
    }

    fn adapter_kind(&self) -> Option<&'static str> {
        self.other.adapter_kind()
    }
}
