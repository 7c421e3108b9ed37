//! What the types cannot say about the outputs of a text encoder that are kept.

use crate::TrainConfig;
use crate::check::Checker;

/// More forms than this are as good as a new one at each visit.
const MOST_VARIANTS: u64 = 1_000_000;

impl Checker<'_> {
    /// `data.cache_text_encoder_outputs`, and the forms of captions that make an end of them.
    pub(crate) fn check_text_cache(&mut self, config: &TrainConfig) {
        let key = "data.cache_text_encoder_outputs";
        if config.data.cache_text_encoder_outputs && !config.objective_kind().denoises() {
            self.report(key, format!("`method = \"{}\"` reads no captions", config.method.name())).hint =
                Some(format!("leave `{key}` out"));
        } else if config.data.cache_text_encoder_outputs && config.trains_text_encoder() {
            let hint = match (config.learned_tokens(), config.trainable_kind().name()) {
                ([], trained) => format!("leave `{key}` out, or set `{trained}.train_text_encoder = false`"),
                _ => format!("leave `{key}` out"),
            };
            let what = if config.learned_tokens().is_empty() { "that is trained" } else { "that learns words" };
            self.report(key, format!("outputs of a text encoder {what} cannot be kept: they change with it")).hint =
                Some(hint);
        }
        for (index, subset) in config.data.subsets.iter().enumerate() {
            let key = format!("data.subsets.{index}.caption_variants");
            match subset.caption_variants {
                Some(0) => {
                    self.report(&key, format!("`{key}` must be at least 1, not 0")).hint =
                        Some("leave it out for a new form at each visit".to_owned());
                }
                Some(variants) if variants > MOST_VARIANTS => {
                    self.report(&key, format!("`{key}` is at most {MOST_VARIANTS}, not {variants}")).hint =
                        Some("leave it out for a new form at each visit".to_owned());
                }
                _ => {}
            }
        }
    }
}
