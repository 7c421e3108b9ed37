//! What the types cannot say about words that are learned.

use crate::check::Checker;
use crate::{CaptionTemplates, LearnedTokenConfig, TextualInversionConfig, TrainConfig, Words};

impl Checker<'_> {
    /// `[textual_inversion]`, alone and beside what else is trained.
    pub(crate) fn check_textual_inversion(&mut self, config: &TrainConfig) {
        let section = &config.textual_inversion;
        let words = config.trainable_facts().words;
        self.rate("textual_inversion.learning_rate", section.learning_rate);
        if section.tokens.is_empty() {
            if words == Words::Alone {
                self.report("textual_inversion.tokens", "there is no word to learn").hint =
                    Some("add a section `[[textual_inversion.tokens]]` with `word = \"<mycat>\"`".to_owned());
            } else if *section != TextualInversionConfig::default() {
                let message = "`textual_inversion` is set, but no word is learned: `textual_inversion.tokens` is empty";
                self.report("textual_inversion", message);
            }
            return;
        }
        if words == Words::Never {
            let name = config.trainable_kind().name();
            let message = format!("words are learned alone or beside a LoRA, not with `{name}`");
            self.report("textual_inversion.tokens", message).hint =
                Some("set `method = \"textual_inversion\"`, or remove the words".to_owned());
        }
        if section.bundle && words != Words::Beside {
            self.report("textual_inversion.bundle", "there is no LoRA that the words could be put into").hint =
                Some("remove the key".to_owned());
        }
        if section.templates != CaptionTemplates::Captions && section.tokens.len() > 1 {
            self.report(
                "textual_inversion.templates",
                "a template's sentences hold a single word, and there are several",
            )
            .hint = Some("write captions that say which word an image shows".to_owned());
        }
        let are_others = config.uses_class_images() || config.data.subsets.iter().any(|it| it.is_regularization);
        if section.templates != CaptionTemplates::Captions && are_others {
            let message = "a template captions all images alike, but regularization images do not show the word";
            self.report("textual_inversion.templates", message).hint =
                Some("write captions, or leave the regularization images out".to_owned());
        }
        for (index, token) in section.tokens.iter().enumerate() {
            self.check_learned_token(index, token, &section.tokens[..index]);
        }
    }

    fn check_learned_token(&mut self, index: usize, token: &LearnedTokenConfig, before: &[LearnedTokenConfig]) {
        let key = |name: &str| format!("textual_inversion.tokens.{index}.{name}");
        let word = &token.word;
        if word.is_empty() {
            self.report(&key("word"), format!("`{}` is empty", key("word"))).hint =
                Some("it is what captions and prompts call the thing, such as `<mycat>`".to_owned());
        } else if word.contains(|letter: char| letter.is_whitespace() || letter.is_control() || ",/\\".contains(letter))
        {
            let message = format!("`{}` is one word, without blanks, commas and slashes, not \"{word}\"", key("word"));
            self.report(&key("word"), message);
        } else if token.file_stem().is_empty() {
            let message =
                format!("`{}`: \"{word}\" has neither letter nor digit for a file to be called by", key("word"));
            self.report(&key("word"), message);
        }
        let same = |other: &&LearnedTokenConfig| {
            other.word.to_lowercase() == word.to_lowercase()
                || other.file_stem().to_lowercase() == token.file_stem().to_lowercase()
        };
        if let Some(other) = before.iter().find(same).filter(|_| !word.is_empty()) {
            let message = format!("the words \"{}\" and \"{word}\" have the same letters", other.word);
            self.report(&key("word"), message).hint = Some("prompts and files do not tell them apart".to_owned());
        }
        self.at_least_one(&key("vectors"), token.vectors.map(u64::from));
        self.existing(&key("initial"), token.initial.as_deref());
        match (&token.initial, &token.initial_words) {
            (Some(_), Some(_)) => {
                let message = format!("`{}` and `initial` are both set", key("initial_words"));
                self.report(&key("initial_words"), message).hint = Some("keep the one that is meant".to_owned());
            }
            (None, Some(words)) if words.trim().is_empty() => {
                let message = format!("`{}` is empty", key("initial_words"));
                self.report(&key("initial_words"), message).hint =
                    Some("without the key the vectors are drawn by chance".to_owned());
            }
            _ => {}
        }
    }
}
