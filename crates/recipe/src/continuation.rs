//! What a run that is continued may do otherwise than it began: which keys decide a step, and which of those it is allowed.

use crate::TrainConfig;
use crate::check::Checker;

/// Keys, and sections, that say what is written, drawn, measured or kept, or when a run gives up: no step is another for them.
const FREE: [&str; 20] = [
    "name",
    "checkpoint",
    "save",
    "samples",
    "validation",
    "log",
    "ranks",
    "data.workers",
    "data.clean",
    "data.cache_dir",
    "data.download_dir",
    "train.threads",
    "train.max_skipped_steps",
    "train.gradient_checkpointing",
    "precision.save",
    "ema.save_raw",
    "lora.format",
    "full.format",
    "debug.trace",
    "debug.trace_steps",
];

/// Of those that one that does decide steps: what is held out is not trained on.
const HELD_OUT: &str = "validation.split";

/// Keys that decide which images come in which order.
const ORDER: [&str; 5] = ["data", "seed", "dreambooth", "train.world_size", HELD_OUT];

/// A key with another value than when the run began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its dotted name.
    pub key: String,
    /// Its value then, as TOML; `absent` where there was none.
    pub before: String,
    /// Its value now.
    pub now: String,
    /// Whether steps come out otherwise because of it.
    pub decides_steps: bool,
    /// Whether images come in another order because of it.
    pub changes_order: bool,
    /// Whether `checkpoint.allow_changes` names it, or something above it.
    pub is_allowed: bool,
}

impl TrainConfig {
    /// In what this configuration differs from the one that the run began with.
    pub fn changes_since(&self, before: &TrainConfig) -> Vec<Change> {
        let [old, new] = [before, self]
            .map(|config| toml::Value::try_from(config).expect("every number of a configuration fits TOML's range"));
        let change = |key: String| {
            let decides_steps = key == HELD_OUT || !is_below(&key, &FREE);
            Change {
                before: value_at(&old, &key),
                now: value_at(&new, &key),
                decides_steps,
                changes_order: decides_steps && is_below(&key, &ORDER),
                is_allowed: self.allows_change_of(&key),
                key,
            }
        };
        before.differing_keys(self).into_iter().map(change).collect()
    }

    /// Whether `checkpoint.allow_changes` names `key`, or a section above it.
    pub fn allows_change_of(&self, key: &str) -> bool {
        let allowed: Vec<&str> = self.checkpoint.allow_changes.iter().map(String::as_str).collect();
        is_below(key, &allowed)
    }
}

impl Checker<'_> {
    pub(crate) fn check_allowed_changes(&mut self, config: &TrainConfig) {
        let whole = TrainConfig { trainable: Some(config.trainable_kind()), ..config.clone() };
        let whole = toml::Value::try_from(&whole).expect("every number of a configuration fits TOML's range");
        for (index, name) in config.checkpoint.allow_changes.iter().enumerate() {
            let section = name.split('.').next().unwrap_or_default();
            if whole.get(section).is_none() {
                let key = format!("checkpoint.allow_changes.{index}");
                self.report(&key, format!("`checkpoint.allow_changes`: there is no key or section `{section}`")).hint =
                    Some("keys are written as in messages: `train.max_steps`, `lr_schedule`, `data`".to_owned());
            }
        }
    }
}

fn is_below(key: &str, names: &[&str]) -> bool {
    names.iter().any(|name| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

fn value_at(table: &toml::Value, key: &str) -> String {
    let found = key.split('.').try_fold(table, |value, name| value.get(name));
    found.map_or_else(|| "absent".to_owned(), toml::Value::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(allowed: &[&str]) -> (TrainConfig, TrainConfig) {
        let before = TrainConfig::default();
        let mut now = before.clone();
        now.checkpoint.allow_changes = allowed.iter().map(|key| (*key).to_owned()).collect();
        (before, now)
    }

    #[test]
    fn what_decides_no_step_is_told_from_what_does() {
        let (before, mut now) = changed(&["train.max_steps"]);
        now.train.max_steps = Some(200);
        now.train.max_grad_norm = 2.0;
        now.data.workers = 7;
        now.data.batch_size = 3;
        now.validation.split = Some(0.5);
        now.validation.repeats = 9;
        let found = now.changes_since(&before);
        let found: Vec<_> =
            found.iter().map(|c| (&c.key[..], c.decides_steps, c.changes_order, c.is_allowed)).collect();
        let expected = [
            ("checkpoint.allow_changes", false, false, false),
            ("data.batch_size", true, true, false),
            ("data.workers", false, false, false),
            ("train.max_grad_norm", true, false, false),
            ("train.max_steps", true, false, true),
            ("validation.repeats", false, false, false),
            ("validation.split", true, true, false),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_section_allows_what_is_below_it_and_nothing_that_only_begins_alike() {
        let (_, now) = changed(&["train", "lr_schedule.type"]);
        for (key, is_allowed) in
            [("train.max_steps", true), ("train", true), ("trainable", false), ("lr_schedule.types", false)]
        {
            assert_eq!(now.allows_change_of(key), is_allowed, "{key}");
        }
    }

    #[test]
    fn both_values_are_named() {
        let (before, mut now) = changed(&[]);
        now.train.max_steps = Some(200);
        let changes = now.changes_since(&before);
        assert_eq!((&changes[0].before[..], &changes[0].now[..]), ("absent", "200"));
    }
}
