//! What a run that is continued may do otherwise than it began: which keys decide a step, and which of those it is allowed.

use sdtrain_config::hint_for_key;

use crate::TrainConfig;
use crate::check::Checker;

/// Keys, and sections, that say what is written, drawn, measured or kept, or when a run gives up: no step is another for them.
const FREE: [&str; 21] = [
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
    "debug.profile_steps",
];

/// Of those that one that does decide steps: what is held out is not trained on.
const HELD_OUT: &str = "validation.split";

/// Keys that decide which images come in which order.
const ORDER: [&str; 5] = ["data", "seed", "dreambooth", "train.world_size", HELD_OUT];

/// Keys that say how a batch is shared out, and only together how large it is.
const SHARING: [&str; 2] = ["data.batch_size", "train.world_size"];

/// Keys that say what the numbers of a saved state are. Under another value they may have the same names and sizes, and are something
/// else: AdamW's mean of gradients would be Lion's, and that of D-Adaptation Adam, which holds its rate, AdamW's. No permission changes
/// that; a section that has one of them may be named for its other keys.
pub const SAVED_AS: [&str; 3] = ["optimizer.type", "precision.weights", "precision.optimizer_state"];

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
        let has_same_batches = self.ranks_for_batches_of(before) == Some(self.train.ranks());
        let change = |key: String| {
            let is_sharing = has_same_batches && SHARING.contains(&key.as_str());
            let decides_steps = key == HELD_OUT || !(is_sharing || is_below(&key, &FREE));
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

    /// For how many ranks a batch of this one's size makes the batches of `before`: with them the same images are in the same batches
    /// with the same noise. None where no number does; also where subsets have sizes of their own, which are not held against each other,
    /// and where an adapter's dropout is drawn anew for each pass.
    pub fn ranks_for_batches_of(&self, before: &TrainConfig) -> Option<u64> {
        let lora = &self.lora;
        if lora.dropout > 0.0 || lora.rank_dropout > 0.0 || lora.module_dropout > 0.0 {
            return None;
        }
        let size = |config: &TrainConfig| {
            let of_subsets = config.data.subsets.iter().any(|subset| subset.batch_size.is_some());
            (!of_subsets).then(|| config.data.batch_size.max(1) as u64)
        };
        let images = size(before)?.saturating_mul(before.train.ranks());
        let own = size(self)?;
        (images % own == 0).then_some(images / own)
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
            let key = format!("checkpoint.allow_changes.{index}");
            if SAVED_AS.contains(&name.as_str()) {
                let message = format!(
                    "`checkpoint.allow_changes`: `{name}` cannot be changed: it says what the numbers of a saved state are"
                );
                self.report(&key, message).hint =
                    Some("leave it as it was, or begin a run of another `name` with this one's product".to_owned());
                continue;
            }
            // Keys of files alone, such as `extends`, are known, and no run has them.
            let section = name.split('.').next().unwrap_or_default();
            let of_runs = || "keys are written as in messages: `train.max_steps`, `lr_schedule`, `data`".to_owned();
            let hint = hint_for_key::<TrainConfig>(name).or_else(|| whole.get(section).is_none().then(of_runs));
            if let Some(hint) = hint {
                self.report(&key, format!("`checkpoint.allow_changes`: there is no key or section `{name}`")).hint =
                    Some(hint);
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
    fn a_batch_that_stays_as_large_may_be_shared_out_otherwise() {
        let (mut before, mut now) = changed(&[]);
        before.data.batch_size = 8;
        let decides = |now: &TrainConfig| now.changes_since(&before).iter().any(|change| change.decides_steps);
        for (batch_size, world_size, is_other) in
            [(4, Some(2), false), (1, Some(8), false), (8, Some(1), false), (4, Some(3), true), (3, Some(2), true)]
        {
            (now.data.batch_size, now.train.world_size) = (batch_size, world_size);
            assert_eq!(decides(&now), is_other, "{batch_size} of {world_size:?}");
        }
        (now.data.batch_size, now.train.world_size) = (4, Some(2));
        now.lora.rank_dropout = 0.1;
        assert_eq!(now.ranks_for_batches_of(&before), None);
        now.lora.rank_dropout = 0.0;
        assert_eq!(now.ranks_for_batches_of(&before), Some(2));
        now.data.subsets = vec![crate::Subset { batch_size: Some(2), ..Default::default() }];
        assert_eq!(now.ranks_for_batches_of(&before), None);
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
