//! `[ema]`: a running mean of the trained weights, which is what comes out of the run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An exponential moving average of the trained weights, of any method. Products, validation and pictures take the averaged
/// weights; training goes on with its own. It moves as diffusers' `EMAModel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmaConfig {
    /// Keep the average.
    #[schemars(extend("x-other-names" = ["use_ema"]))]
    pub enabled: bool,

    /// How much of the average stays at an update once the warm-up is over, 0 to 1. Typical: 0.999 to 0.9999; the average
    /// spans about `1 / (1 - decay)` updates, so a short run needs less.
    #[schemars(extend("x-other-names" = ["ema_decay"]))]
    pub decay: f64,

    /// The least that stays at an update, the first ones included.
    pub min_decay: f64,

    /// How the decay rises in the first updates.
    pub warmup: EmaWarmup,

    /// `inv_gamma` of the warm-up `power`: `1 - (1 + update / inv_gamma) ^ -power`.
    pub inv_gamma: f64,

    /// `power` of the warm-up `power`. Typical: 2/3 for runs over a million steps, 3/4 for shorter ones.
    pub power: f64,

    /// Optimizer steps before the first that is averaged; until then the average is the weights themselves. A run must have more.
    pub update_after_step: u64,

    /// Optimizer steps from one update to the next. A run must have as many.
    #[schemars(extend("x-other-names" = ["ema_update_step_interval"]))]
    pub update_every: u64,

    /// Keep the average in the computer's memory, also when training is on a GPU: slower updates, no GPU memory.
    pub on_cpu: bool,

    /// Save the weights that were not averaged as well, as a second product with `-raw` in its name.
    pub save_raw: bool,
}

/// How the decay rises in the first updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmaWarmup {
    /// `(1 + update) / (10 + update)`.
    Count,
    /// `1 - (1 + update / inv_gamma) ^ -power`.
    Power,
    /// At `decay` from the first update on.
    None,
}

impl Default for EmaConfig {
    fn default() -> Self {
        EmaConfig {
            enabled: false,
            decay: 0.9999,
            min_decay: 0.0,
            warmup: EmaWarmup::Count,
            inv_gamma: 1.0,
            power: 2.0 / 3.0,
            update_after_step: 0,
            update_every: 1,
            on_cpu: false,
            save_raw: false,
        }
    }
}

impl EmaConfig {
    /// Why a run of `total_steps` would hand out an average that holds nothing of its training, or that is none: the key, the message and
    /// the way out. An average that is off is asked nothing.
    pub fn refused_in(&self, total_steps: u64) -> Option<(&'static str, String, String)> {
        if !self.enabled {
            return None;
        }
        self.never_moves().or_else(|| self.comes_too_late(total_steps))
    }

    /// What no length of a run mends.
    fn never_moves(&self) -> Option<(&'static str, String, String)> {
        let key = match self.warmup {
            _ if self.min_decay >= 1.0 => "ema.min_decay",
            EmaWarmup::None if self.decay >= 1.0 => "ema.decay",
            _ => return None,
        };
        let message =
            format!("`{key}` = 1: all of the average stays at every update, so that it never takes in what is trained");
        Some((key, message, "0.999 to 0.9999 are usual; a short run needs less".to_owned()))
    }

    fn comes_too_late(&self, total_steps: u64) -> Option<(&'static str, String, String)> {
        let (every, after) = (self.update_every, self.update_after_step);
        if every > total_steps {
            let message = format!(
                "`ema.update_every` = {every}, and the run has {total_steps} steps: its product would be the weights that it began \
                 with"
            );
            let hint = "1 moves the average at every step; `ema.enabled = false` saves the trained weights";
            return Some(("ema.update_every", message, hint.to_owned()));
        }
        // The update of the step right after them still makes the average the weights themselves.
        let last_update = total_steps - total_steps % every.max(1);
        if after > 0 && last_update < after.saturating_add(2) {
            let message = format!(
                "`ema.update_after_step` = {after}, and the last update of the average is that of step {last_update} of {total_steps}: \
                 nothing is averaged"
            );
            let hint = "lower it; `ema.enabled = false` saves the trained weights";
            return Some(("ema.update_after_step", message, hint.to_owned()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(ema: EmaConfig, total_steps: u64) -> Option<&'static str> {
        let refused = EmaConfig { enabled: true, ..ema.clone() }.refused_in(total_steps);
        assert_eq!(EmaConfig { enabled: false, ..ema }.refused_in(total_steps), None);
        refused.map(|(key, _, _)| key)
    }

    #[test]
    fn an_average_that_takes_nothing_in_is_refused() {
        let with = |decay, min_decay, warmup| EmaConfig { decay, min_decay, warmup, ..EmaConfig::default() };
        assert_eq!(refused(EmaConfig::default(), 1), None);
        assert_eq!(refused(with(1.0, 0.0, EmaWarmup::None), 1000), Some("ema.decay"));
        assert_eq!(refused(with(1.0, 1.0, EmaWarmup::Count), 1000), Some("ema.min_decay"));
        // A decay that rises to 1 takes in what comes before that.
        assert_eq!(refused(with(1.0, 0.0, EmaWarmup::Count), 1000), None);
        assert_eq!(refused(with(0.9999, 0.0, EmaWarmup::None), 1000), None);
    }

    #[test]
    fn an_average_that_comes_after_the_end_of_the_run_is_refused() {
        let with =
            |update_every, update_after_step| EmaConfig { update_every, update_after_step, ..EmaConfig::default() };
        assert_eq!(refused(with(5000, 0), 1000), Some("ema.update_every"));
        assert_eq!(refused(with(1001, 0), 1000), Some("ema.update_every"));
        assert_eq!(refused(with(1000, 0), 1000), None, "the last step is one");
        assert_eq!(refused(with(999, 0), 1000), None);
        assert_eq!(refused(with(1, 5000), 1000), Some("ema.update_after_step"));
        // The first update that averages is that of step 1000.
        assert_eq!(refused(with(1, 998), 1000), None);
        assert_eq!(refused(with(1, 999), 1000), Some("ema.update_after_step"));
        assert_eq!(refused(with(300, 899), 1000), Some("ema.update_after_step"));
        assert_eq!(refused(with(300, 898), 1000), None);
    }
}
