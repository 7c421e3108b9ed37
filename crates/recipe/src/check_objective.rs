//! What the types cannot say about noise, timesteps, loss and masks: ranges, and options that contradict each other.

use crate::check::Checker;
use crate::{
    BiasStrategy, HuberSchedule, LossConfig, ModelFormat, NoiseConfig, Subset, TimestepDistribution, TimestepsConfig,
    TrainConfig, VaeProduct,
};

/// Levels beyond this many are 1 × 1 for any size of image.
const MOST_MULTIRES_ITERATIONS: u32 = 100;

impl Checker<'_> {
    /// `[noise]`, `[timesteps]`, `[loss]` and how much each subset counts.
    pub(crate) fn check_objective(&mut self, config: &TrainConfig) {
        self.check_noise(&config.noise);
        self.check_timesteps(&config.timesteps);
        self.check_loss(config);
        self.check_masks(config);
        for (index, subset) in config.data.subsets.iter().enumerate() {
            self.check_loss_weight(&format!("data.subsets.{index}"), subset);
        }
        if !config.objective_kind().denoises() {
            self.check_unused_by_vae(config);
        }
    }

    fn check_noise(&mut self, noise: &NoiseConfig) {
        self.not_negative("noise.offset", Some(noise.offset));
        self.not_negative("noise.perturbation", Some(noise.perturbation));
        self.not_negative("noise.input_perturbation", Some(noise.input_perturbation));
        if !noise.adaptive_offset_scale.is_finite() {
            let message =
                format!("`noise.adaptive_offset_scale` must be a number, not {}", noise.adaptive_offset_scale);
            self.report("noise.adaptive_offset_scale", message);
        }
        let needed = [
            ("offset_random_strength", noise.offset_random_strength, "offset", noise.offset == 0.0),
            ("adaptive_offset_scale", noise.adaptive_offset_scale != 0.0, "offset", noise.offset == 0.0),
            (
                "input_perturbation_random_strength",
                noise.input_perturbation_random_strength,
                "input_perturbation",
                noise.input_perturbation == 0.0,
            ),
            (
                "multires_discount",
                noise.multires_discount.is_some(),
                "multires_iterations",
                noise.multires_iterations == 0,
            ),
            ("multires_norm", noise.multires_norm.is_some(), "multires_iterations", noise.multires_iterations == 0),
        ];
        for (key, is_set, needs, is_off) in needed {
            if is_set && is_off {
                let key = format!("noise.{key}");
                self.report(&key, format!("`{key}` is set, but `noise.{needs}` is not")).hint =
                    Some("set both, or remove it".to_owned());
            }
        }
        if noise.multires_iterations > MOST_MULTIRES_ITERATIONS {
            let key = "noise.multires_iterations";
            let message = format!("`{key}` is at most {MOST_MULTIRES_ITERATIONS}, not {}", noise.multires_iterations);
            self.report(key, message).hint = Some("6 to 10 is usual".to_owned());
        }
        if let Some(discount) = noise.multires_discount.filter(|discount| !(*discount > 0.0 && *discount <= 1.0)) {
            let key = "noise.multires_discount";
            let message = format!("`{key}` must be greater than 0 and at most 1, not {discount}");
            self.report(key, message);
        }
    }

    fn check_timesteps(&mut self, timesteps: &TimestepsConfig) {
        if timesteps.max.is_some_and(|max| max <= timesteps.min) {
            self.report(
                "timesteps.max",
                "no timestep is trained: `timesteps.max` must be greater than `timesteps.min`",
            );
        }
        let key = |name: &str| format!("timesteps.distribution.{name}");
        match &timesteps.distribution {
            TimestepDistribution::Uniform(_) | TimestepDistribution::Cubic(_) => {}
            TimestepDistribution::LogitNormal(normal) => {
                self.positive(&key("std"), Some(normal.std));
                self.within(&key("mean"), normal.mean, -20.0, 20.0);
            }
            TimestepDistribution::Sigmoid(sigmoid) => {
                self.within(&key("slope"), sigmoid.slope, -500.0, 500.0);
                self.between_zero_and_one(&key("center"), sigmoid.center);
            }
            TimestepDistribution::Biased(biased) => {
                self.positive(&key("multiplier"), Some(biased.multiplier));
                let is_range = biased.strategy == BiasStrategy::Range;
                if let Some(portion) = biased.portion {
                    self.between_zero_and_one(&key("portion"), portion);
                }
                let unused = match is_range {
                    true => vec![("portion", biased.portion.is_some(), "it is for `earlier` and `later`")],
                    false => vec![
                        ("begin", biased.begin.is_some(), "it is for `strategy = \"range\"`"),
                        ("end", biased.end.is_some(), "it is for `strategy = \"range\"`"),
                    ],
                };
                for (name, is_set, hint) in unused {
                    if is_set {
                        let key = key(name);
                        self.report(&key, format!("`{key}` does not go with this `strategy`")).hint =
                            Some(hint.to_owned());
                    }
                }
                let begin = biased.begin.unwrap_or(timesteps.min);
                let end = biased.end.or(timesteps.max);
                if is_range && end.is_some_and(|end| end <= begin) {
                    let message = format!("`{}` must be greater than `{}`", key("end"), key("begin"));
                    self.report(&key("end"), message);
                }
                let outside = begin < timesteps.min || end.zip(timesteps.max).is_some_and(|(end, max)| end > max);
                if is_range && outside {
                    self.report(&key("begin"), "the range reaches beyond the timesteps that are trained").hint =
                        Some("it lies between `timesteps.min` and `timesteps.max`".to_owned());
                }
            }
        }
    }

    fn check_loss(&mut self, config: &TrainConfig) {
        let loss = &config.loss;
        self.positive("loss.min_snr_gamma", loss.min_snr_gamma);
        self.positive("loss.p2_gamma", loss.p2_gamma);
        self.positive("loss.v_pred_like_loss", loss.v_pred_like_loss);
        self.check_huber(loss);
        self.between_zero_and_one("loss.unmasked_weight", loss.unmasked_weight);
        self.between_zero_and_one("loss.unmasked_probability", loss.unmasked_probability);
        let weightings = loss.snr_weightings();
        if let Some(other) = weightings.iter().find(|name| loss.p2_gamma.is_some() && **name != "p2_gamma") {
            let message = format!("`loss.{other}` and `loss.p2_gamma` weigh the timesteps twice");
            self.report("loss.p2_gamma", message).hint = Some("keep the one that is meant".to_owned());
        }
        if loss.snr_before_rescaling && weightings.is_empty() && loss.v_pred_like_loss.is_none() {
            let key = "loss.snr_before_rescaling";
            self.report(key, format!("`{key}` is set, but nothing is weighed by the SNR")).hint =
                Some("remove it, or set `loss.min_snr_gamma`".to_owned());
        }
        // Without the key the model's files say what it predicts; a run looks at them before its first step.
        if let Some(prediction_type) = config.model.prediction_type {
            let rescaled = config.model.zero_terminal_snr != Some(false);
            if let Some((key, message, hint)) = loss.contradiction(prediction_type, rescaled) {
                self.report(&format!("loss.{key}"), message).hint = Some(hint.to_owned());
            }
        }
    }

    fn check_huber(&mut self, loss: &LossConfig) {
        self.positive("loss.huber_c", loss.huber_c);
        self.positive("loss.huber_scale", loss.huber_scale);
        let set = [
            ("huber_c", loss.huber_c.is_some()),
            ("huber_schedule", loss.huber_schedule.is_some()),
            ("huber_scale", loss.huber_scale.is_some()),
        ];
        if !loss.loss_type.has_c() {
            for (name, _) in set.iter().filter(|(_, is_set)| *is_set) {
                let key = format!("loss.{name}");
                self.report(&key, format!("`{key}` is for the losses `huber` and `smooth_l1`")).hint =
                    Some("set `loss.type = \"huber\"`, or remove it".to_owned());
            }
        } else if loss.huber_scale.is_some() && loss.effective_huber_schedule() == HuberSchedule::Snr {
            self.report("loss.huber_scale", "`loss.huber_scale` has no effect with `huber_schedule = \"snr\"`").hint =
                Some("remove it, or set `loss.huber_schedule = \"constant\"` or `\"exponential\"`".to_owned());
        }
    }

    fn check_masks(&mut self, config: &TrainConfig) {
        let loss = &config.loss;
        let has_masks = config.data.subsets.iter().any(Subset::has_masks);
        let (why, hint) = match config.paints_by_files() {
            true => (
                "is about loss masks: with `inpainting.masks = \"files\"` the masks say what is covered, and the loss looks at the whole image",
                "remove it, or set `inpainting.masks = \"random\"`, which makes them loss masks",
            ),
            false if has_masks => return,
            false => (
                "is about masks, and there are none",
                "set `alpha_mask` in a subset, or give it `extra_images` with `column = \"mask\"`",
            ),
        };
        let set = [
            ("unmasked_weight", loss.unmasked_weight != 0.0),
            ("normalize_masked_area", loss.normalize_masked_area),
            ("unmasked_probability", loss.unmasked_probability != 0.0),
        ];
        for (name, _) in set.iter().filter(|(_, is_set)| *is_set) {
            let key = format!("loss.{name}");
            self.report(&key, format!("`{key}` {why}")).hint = Some(hint.to_owned());
        }
    }

    fn check_loss_weight(&mut self, section: &str, subset: &Subset) {
        self.not_negative(&format!("{section}.loss_weight"), Some(subset.loss_weight));
        if subset.loss_weight_column.as_deref() == Some("") {
            let key = format!("{section}.loss_weight_column");
            self.report(&key, format!("`{key}` is empty"));
        }
    }

    /// Settings of the denoiser's objective that the autoencoder's has no use for.
    fn check_unused_by_vae(&mut self, config: &TrainConfig) {
        let default = LossConfig { prior_loss_weight: config.loss.prior_loss_weight, ..LossConfig::default() };
        let sections = [
            ("noise", config.noise != NoiseConfig::default()),
            ("timesteps", config.timesteps != TimestepsConfig::default()),
            ("loss", config.loss != default),
        ];
        for (section, _) in sections.iter().filter(|(_, is_set)| *is_set) {
            self.report(section, format!("`[{section}]` is not used by `method = \"vae\"`")).hint =
                Some("what the autoencoder is asked for stands in `[vae_objective]`".to_owned());
        }
        let vae = &config.vae_objective;
        let is_file = config.full.format == ModelFormat::SingleFile;
        if vae.product == VaeProduct::Vae && vae.train_encoder && is_file {
            let message = "`vae_objective.product`: a file of a VAE alone has no place for the scale of its latents, which \
                           changes with the encoder";
            self.report("vae_objective.product", message).hint = Some(
                "set `full.format = \"diffusers\"`, or `vae_objective.train_encoder = false`, which keeps the scale"
                    .to_owned(),
            );
        }
        for (index, subset) in config.data.subsets.iter().enumerate() {
            let set = [
                ("loss_weight", subset.loss_weight != 1.0),
                ("loss_weight_column", subset.loss_weight_column.is_some()),
                ("alpha_mask", subset.alpha_mask),
                ("extra_images", subset.has_masks() && !subset.alpha_mask),
            ];
            for (name, _) in set.iter().filter(|(_, is_set)| *is_set) {
                let key = format!("data.subsets.{index}.{name}");
                self.report(&key, format!("`{key}` is not made for `method = \"vae\"`")).hint =
                    Some("remove it".to_owned());
            }
        }
    }

    fn within(&mut self, key: &str, value: f64, least: f64, most: f64) {
        if !(least..=most).contains(&value) {
            self.report(key, format!("`{key}` must be between {least} and {most}, not {value}"));
        }
    }
}
