//! What the types cannot say about how often images are seen and with which others they share a batch.

use crate::check::Checker;
use crate::{BucketingConfig, Resolution, Subset, TrainConfig};

/// Longest side of an image in pixels that is decoded.
const LONGEST_SIDE: u32 = 16_384;
/// Fewer visits an epoch are not told apart.
const FEWEST_REPEATS: f64 = 1e-6;

impl Checker<'_> {
    /// Repeats, weights, regularization images, and the sizes and batches of each subset.
    pub(crate) fn check_order(&mut self, config: &TrainConfig) {
        let data = &config.data;
        self.at_least_one("data.batch_size", Some(data.batch_size as u64));
        self.check_sizes("data", data.resolution, &data.bucketing);
        let first_weighted = data.subsets.iter().position(|subset| subset.weight.is_some());
        for (index, subset) in data.subsets.iter().enumerate() {
            let section = format!("data.subsets.{index}");
            self.check_repeats(&section, subset);
            self.check_weight(&section, subset, first_weighted);
            self.at_least_one(&format!("{section}.batch_size"), subset.batch_size.map(|size| size as u64));
            if subset.resolution.is_some() || subset.bucketing.is_some() {
                let batching = data.batching(subset);
                self.check_sizes(&section, batching.resolution, &batching.bucketing);
            }
        }
        self.check_regularization(config);
    }

    /// `section` is where `resolution` and `bucketing` stand.
    fn check_sizes(&mut self, section: &str, resolution: Resolution, bucketing: &BucketingConfig) {
        let key = |name: &str| format!("{section}.{name}");
        if resolution.width() == 0 || resolution.height() == 0 {
            self.report(&key("resolution"), format!("`{}` must be positive", key("resolution")));
            return;
        }
        if resolution.width().max(resolution.height()) > LONGEST_SIDE {
            let message = format!("`{}` is at most {LONGEST_SIDE}, the longest side that is read", key("resolution"));
            self.report(&key("resolution"), message);
            return;
        }
        self.at_least_one(&key("bucketing.step"), bucketing.step.map(u64::from));
        let (min, max) = bucketing.side_range(resolution);
        let (min_key, max_key) = (key("bucketing.min"), key("bucketing.max"));
        if min == 0 {
            self.report(&min_key, format!("`{min_key}` must be at least 1"));
        } else if min > max {
            let message = format!("the shortest bucket side, {min}, is longer than the longest, {max}");
            self.report(&min_key, message).hint = Some(format!("set `{min_key}` and `{max_key}`"));
        }
    }

    fn check_repeats(&mut self, section: &str, subset: &Subset) {
        let (key, repeats) = (format!("{section}.repeats"), subset.repeats);
        if repeats == 0.0 {
            self.report(&key, format!("`{key}` must be greater than 0, not 0")).hint =
                Some("to train without these images, leave the subset out".to_owned());
        } else if repeats.is_nan() || repeats < 0.0 {
            self.report(&key, format!("`{key}` must be greater than 0, not {repeats}"));
        } else if repeats < FEWEST_REPEATS {
            self.report(&key, format!("`{key}` must be at least {FEWEST_REPEATS}, not {repeats}"));
        } else if repeats > 100_000.0 {
            self.report(&key, "100000 repeats are the most; train for more epochs instead");
        } else if subset.is_regularization && repeats.fract() != 0.0 {
            let message = format!("`{key}` must be a whole number for regularization images, not {repeats}");
            self.report(&key, message).hint =
                Some("they are counted out: as many of them are seen as there are training images".to_owned());
        }
    }

    fn check_weight(&mut self, section: &str, subset: &Subset, first_weighted: Option<usize>) {
        let key = format!("{section}.weight");
        match (subset.weight, first_weighted) {
            (Some(_), _) if subset.is_regularization => {
                self.report(
                    &key,
                    "regularization images have no weight: as many of them are seen as there are others",
                )
                .hint = Some("remove it; `loss.prior_loss_weight` says how much they count".to_owned());
            }
            (Some(weight), _) if !(weight > 0.0 && weight.is_finite()) => {
                self.report(&key, format!("`{key}` must be greater than 0, not {weight}"));
            }
            (None, Some(first)) if !subset.is_regularization => {
                let message = format!("`{key}` is not set, but `data.subsets.{first}.weight` is");
                self.report(&key, message).hint =
                    Some("give every subset a weight, or none; only regularization images have none".to_owned());
            }
            _ => {}
        }
    }

    fn check_regularization(&mut self, config: &TrainConfig) {
        let regularization = |subset: &Subset| subset.is_regularization;
        let subsets = &config.data.subsets;
        if !subsets.is_empty() && subsets.iter().all(regularization) {
            self.report(
                "data.subsets.0.is_regularization",
                "all images are regularization images: there is nothing to learn",
            )
            .hint = Some("remove `is_regularization` from the images that are to be learned".to_owned());
        }
        let (key, weight) = ("loss.prior_loss_weight", config.loss.prior_loss_weight);
        if !(weight >= 0.0 && weight.is_finite()) {
            self.report(key, format!("`{key}` must not be negative, and is {weight}"));
        } else if weight != 1.0 && !config.objective_kind().denoises() {
            self.report(key, format!("`{key}` is not made for `method = \"vae\"`"));
        } else if weight != 1.0 && !Self::has_prior(config) {
            self.report(key, format!("`{key}` weighs regularization images, and there are none")).hint =
                Some("set `is_regularization = true` in the subset that holds them".to_owned());
        }
    }
}
