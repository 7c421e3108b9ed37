//! `[textual_inversion]`: words that are learned, and how.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TrainConfig;

/// Words that the model does not know yet (arXiv:2208.01618): each gets vectors of its own in the text encoder's embedding, and
/// only these are trained. With `method = "textual_inversion"` alone; where a LoRA is trained, together with it
/// (known as pivotal tuning).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextualInversionConfig {
    /// The words, a list: `[[textual_inversion.tokens]]`.
    pub tokens: Vec<LearnedTokenConfig>,

    /// What images are captioned with. Sentences of a template stand in the place of all captions, held-out ones left out, and
    /// are made for a single word.
    pub templates: CaptionTemplates,

    /// Learning rate of the words. Absent: `optimizer.learning_rate`. Typical for Stable Diffusion: 5e-4 to 5e-3, far above
    /// that of weights, for only a few numbers are trained.
    #[schemars(extend("x-other-names" = ["embedding_learning_rate", "text_encoder_embedding_lr"]))]
    pub learning_rate: Option<f64>,

    /// Bring each vector back to the median length of the vocabulary's after every step, so that a word neither drowns the
    /// others nor vanishes.
    #[schemars(extend("x-other-names" = ["preserve_embedding_norm"]))]
    pub preserve_norm: bool,

    /// How a file names the vectors of its word. A file of several words always names them by the words.
    pub format: EmbeddingFormat,

    /// With a LoRA: put the words into the LoRA's file as well (`bundle_emb`, which AUTOMATIC1111's web interface and OneTrainer
    /// read; diffusers then refuses the file).
    #[schemars(extend("x-other-names" = ["bundle_additional_embeddings"]))]
    pub bundle: bool,
}

/// A word that is learned.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["word"]))]
pub struct LearnedTokenConfig {
    /// The word as captions and prompts have it, in small or capital letters. One that the model has no picture of, without
    /// blanks and commas; `<name>` with the brackets is usual, and is never a part of another word.
    #[schemars(extend("x-other-names" = ["token_string", "placeholder_token", "placeholder"]))]
    pub word: String,

    /// How many vectors it has, each of which takes the place of a token in every prompt. More can hold more, and fit the
    /// training images alone more easily. Typical: 1 to 8. Absent: 1, or as many as `initial` has.
    #[schemars(extend("x-other-names" = ["num_vectors_per_token", "num_vectors", "token_count"]))]
    pub vectors: Option<u32>,

    /// Words of the vocabulary that the vectors start as, such as `cat`: repeated where the word has more vectors, cut off where
    /// it has fewer. Absent: vectors drawn with the spread of the vocabulary's.
    #[schemars(extend("x-other-names" = ["init_word", "initializer_token", "initial_embedding_text"]))]
    pub initial_words: Option<String>,

    /// A file with vectors that training continues from. Of several words in it the one called `word`.
    #[schemars(extend("x-other-names" = ["weights", "initial_embedding"]))]
    pub initial: Option<PathBuf>,
}

/// What images are captioned with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaptionTemplates {
    /// Their own captions, which hold the words.
    #[default]
    Captions,
    /// Sentences about a thing, such as "a bright photo of the WORD", one of them by chance each time an image is seen.
    Object,
    /// Sentences about a style, such as "a drawing in the manner of WORD".
    Style,
}

/// How a file names the vectors of its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingFormat {
    /// By the word itself, as diffusers.
    #[default]
    Diffusers,
    /// `emb_params`, as kohya's scripts; the word is what the file is called.
    Kohya,
}

impl LearnedTokenConfig {
    /// The word as a part of a file name: its letters, digits and hyphens.
    pub fn file_stem(&self) -> String {
        self.word.chars().filter(|letter| letter.is_alphanumeric() || *letter == '-').collect()
    }

    /// The name of its own file beside a product called `stem`.
    pub fn file_beside(&self, stem: &str) -> String {
        format!("{stem}-{}.safetensors", self.file_stem())
    }
}

impl TextualInversionConfig {
    /// Names of the files of single words beside a product called `stem`.
    pub fn word_files<'c>(&'c self, stem: &'c str) -> impl Iterator<Item = String> + 'c {
        self.tokens.iter().map(move |token| token.file_beside(stem))
    }
}

impl TrainConfig {
    /// A word that no caption holds cannot be learned: `(message, hint)` for those.
    pub fn check_words_are_used(&self, captions: impl Iterator<Item = String>) -> Result<(), (String, String)> {
        let mut missing: Vec<&str> = self.learned_tokens().iter().map(|token| token.word.as_str()).collect();
        if missing.is_empty() || self.textual_inversion.templates != CaptionTemplates::Captions {
            return Ok(());
        }
        for caption in captions {
            let caption = caption.to_lowercase();
            missing.retain(|word| !caption.contains(&word.to_lowercase()));
        }
        let Some(first) = missing.first() else { return Ok(()) };
        let words: Vec<String> = missing.iter().map(|word| format!("`{word}`")).collect();
        Err((
            format!("no caption holds {}, so nothing would be learned", words.join(", ")),
            format!(
                "put the word into the captions (`caption_prefix = \"{first},\"` adds it to all), or set \
                 `textual_inversion.templates`"
            ),
        ))
    }

    /// Warnings of the words that adapter files bring along (`bundle_emb`) and the run leaves behind: of `[[model.fuse]]` all, of
    /// `lora.initial` those that are not continued from a file. `words_in` tells the words of a file.
    pub fn words_left_behind<E>(&self, words_in: impl Fn(&Path) -> Result<Vec<String>, E>) -> Result<Vec<String>, E> {
        let fused = self.model.fuse.iter().map(|fused| ("model.fuse", fused.path.as_path()));
        let mut warnings = Vec::new();
        for (key, path) in fused.chain(self.trainable_facts().initial) {
            let continues = |word: &str| {
                let token = self.learned_tokens().iter().find(|token| token.word.eq_ignore_ascii_case(word));
                token.is_some_and(|token| token.initial.is_some())
            };
            for word in words_in(path)?.iter().filter(|word| !continues(word)) {
                let file = path.display();
                warnings.push(format!(
                    "`{key}`: `{file}` brings the word `{word}` along, which this run leaves behind; to learn it on, name it in \
                     `[[textual_inversion.tokens]]` with `initial = \"{file}\"`"
                ));
            }
        }
        Ok(warnings)
    }
}
