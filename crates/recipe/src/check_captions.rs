//! What the types cannot say about the captions of a subset.

use std::collections::BTreeSet;

use crate::check::Checker;
use crate::{CaptionFile, Subset};

impl Checker<'_> {
    /// Everything about captions in subset number `index`.
    pub(crate) fn check_captions(&mut self, index: usize, subset: &Subset) {
        let key = |name: &str| format!("data.subsets.{index}.{name}");
        self.between_zero_and_one(&key("caption_dropout_rate"), subset.caption_dropout_rate);
        self.between_zero_and_one(&key("caption_tag_dropout_rate"), subset.caption_tag_dropout_rate);
        self.not_negative(&key("token_warmup_step"), Some(subset.token_warmup_step));
        if subset.changes_caption_parts() {
            self.not_empty(&key("caption_separator"), Some(&subset.caption_separator));
        }
        for (name, text) in [
            ("keep_tokens_separator", &subset.keep_tokens_separator),
            ("secondary_separator", &subset.secondary_separator),
        ] {
            self.not_empty(&key(name), text.as_deref());
        }
        if subset.captions.is_empty() {
            self.begins_with_a_dot(&key("caption_extension"), &subset.caption_extension);
        } else {
            self.check_caption_files(&key("captions"), &subset.captions);
            if subset.caption_extension != Subset::default().caption_extension {
                let message = format!("`{}` and `{}` are both set", key("caption_extension"), key("captions"));
                self.report(&key("caption_extension"), message).hint =
                    Some(format!("give `{}` to one of `captions`", subset.caption_extension));
            }
            if let Some(column) = &subset.caption_column {
                let message = format!("`{}` and `{}` are both set", key("caption_column"), key("captions"));
                self.report(&key("caption_column"), message).hint =
                    Some(format!("give it to one of `captions`: `column = \"{column}\"`"));
            }
        }
    }

    fn check_caption_files(&mut self, key: &str, files: &[CaptionFile]) {
        let mut endings = BTreeSet::new();
        for (index, file) in files.iter().enumerate() {
            let (extension, column) = (format!("{key}.{index}.extension"), format!("{key}.{index}.column"));
            let name = match &file.column {
                None => {
                    self.begins_with_a_dot(&extension, &file.extension);
                    &extension
                }
                Some(_) => {
                    self.not_empty(&column, file.column.as_deref());
                    if !file.extension.is_empty() {
                        self.report(&extension, format!("`{extension}` and `{column}` are both set")).hint = Some(
                            "captions lie in files of their own or in a column: keep the one that is meant".to_owned(),
                        );
                    }
                    &column
                }
            };
            if !endings.insert(file.name()) {
                let message = format!("`{name}`: \"{}\" is listed already", file.name());
                self.report(name, message);
            }
            self.not_negative(&format!("{key}.{index}.weight"), Some(file.weight));
        }
        if files.iter().all(|file| file.weight == 0.0) {
            self.report(key, format!("every weight of `{key}` is 0, so none could be chosen"));
        }
    }

    fn begins_with_a_dot(&mut self, key: &str, extension: &str) {
        if extension.trim_start_matches('.').is_empty() {
            self.report(key, format!("`{key}` is empty")).hint =
                Some("write \".txt\"; captions in a table or in Parquet files have a `column` instead".to_owned());
        } else if !extension.starts_with('.') {
            let message = format!("`{key}` must begin with a dot, not \"{extension}\"");
            self.report(key, message).hint = Some(format!("write \".{extension}\""));
        }
    }

    pub(crate) fn not_empty(&mut self, key: &str, text: Option<&str>) {
        if text == Some("") {
            self.report(key, format!("`{key}` must not be empty"));
        }
    }
}
