//! What `[ema]` must be like.

use crate::check::Checker;
use crate::{EmaWarmup, TrainConfig};

impl Checker<'_> {
    pub(crate) fn check_ema(&mut self, config: &TrainConfig) {
        let ema = &config.ema;
        for (key, value) in [("ema.decay", ema.decay), ("ema.min_decay", ema.min_decay)] {
            self.between_zero_and_one(key, value);
        }
        if ema.min_decay > ema.decay {
            self.report("ema.min_decay", "`ema.min_decay` is greater than `ema.decay`");
        }
        if ema.warmup == EmaWarmup::Power {
            self.positive("ema.inv_gamma", Some(ema.inv_gamma));
            self.positive("ema.power", Some(ema.power));
        }
        self.at_least_one("ema.update_every", Some(ema.update_every));
        // A run that is measured in epochs has its steps once its images are looked at.
        if let Some((key, message, hint)) = ema.refused_in(config.train.max_steps.unwrap_or(u64::MAX)) {
            self.report(key, message).hint = Some(hint);
        }
        if ema.save_raw && !ema.enabled {
            self.report(
                "ema.save_raw",
                "nothing is averaged: without `ema.enabled` the product holds the trained weights",
            )
            .hint = Some("set `ema.enabled = true`, or leave `save_raw` out".to_owned());
        }
    }
}
