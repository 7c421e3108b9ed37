//! What the types cannot say about the parts of a model: what is fused, frozen, and how fast each part learns.

use crate::check::Checker;
use crate::{AdapterKind, FullConfig, Learning, ModelConfig, TrainConfig, Words};

impl Checker<'_> {
    /// Fused adapters, patterns, rates of blocks and groups, and how long the text encoder is trained.
    pub(crate) fn check_parts(&mut self, config: &TrainConfig) {
        self.check_fused(&config.model);
        self.check_patterns(&config.full);
        let rates = [
            ("full.unet_learning_rate", config.full.unet_learning_rate),
            ("lora.unet_learning_rate", config.lora.unet_learning_rate),
        ];
        for (key, rate) in rates {
            self.rate(key, rate);
        }
        let ratios = [
            ("lora.loraplus_lr_ratio", config.lora.loraplus_lr_ratio),
            ("lora.loraplus_unet_lr_ratio", config.lora.loraplus_unet_lr_ratio),
            ("lora.loraplus_text_encoder_lr_ratio", config.lora.loraplus_text_encoder_lr_ratio),
        ];
        for (key, ratio) in ratios {
            self.positive(key, ratio);
        }
        let has_upper = matches!(config.lora.kind, AdapterKind::Lora | AdapterKind::Dora);
        if let Some((key, _)) = ratios.iter().find(|(_, ratio)| ratio.is_some() && !has_upper) {
            let kind = config.lora.kind.name();
            self.report(key, format!("`{key}` is for upper matrices, which `lora.kind = \"{kind}\"` does not have"))
                .hint = Some("remove it".to_owned());
        }
        for mistake in config.blocks.mistakes() {
            let key = format!("blocks.{}", mistake.key);
            self.report(&key, format!("`{key}` {}", mistake.message)).hint = mistake.hint;
        }
        if config.blocks.is_set() && !config.trains_unet() {
            self.report("blocks", "`[blocks]` says how fast the UNet's blocks learn, but the UNet is not trained")
                .hint = Some("remove the section, or train the UNet".to_owned());
        }
        self.check_text_encoder_stop(config);
    }

    fn check_fused(&mut self, model: &ModelConfig) {
        for (index, fused) in model.fuse.iter().enumerate() {
            let key = |name: &str| format!("model.fuse.{index}.{name}");
            if fused.path.as_os_str().is_empty() {
                self.report(&key("path"), format!("`{}` is empty", key("path")));
            } else {
                self.existing_or_on_hub(&key("path"), Some(&fused.path));
            }
            if !fused.weight.is_finite() {
                self.report(&key("weight"), format!("`{}` must be a number, not {}", key("weight"), fused.weight));
            }
        }
    }

    fn check_patterns(&mut self, full: &FullConfig) {
        for (name, patterns) in [("targets", &full.targets), ("freeze", &full.freeze)] {
            for (index, pattern) in patterns.iter().enumerate() {
                if !pattern.starts_with(['u', 't', '*']) || pattern.trim() != pattern {
                    let message = format!("`full.{name}` has the pattern \"{pattern}\", which matches no parameter");
                    self.report(&format!("full.{name}.{index}"), message).hint =
                        Some("patterns begin with `unet.`, `text_encoder.` or `*`".to_owned());
                }
            }
        }
        if full.targets.is_empty() {
            self.report("full.targets", "nothing is trained: `full.targets` is empty").hint =
                Some("leave it out to train everything that is not frozen".to_owned());
        }
    }

    fn check_text_encoder_stop(&mut self, config: &TrainConfig) {
        let train = &config.train;
        let limits = [
            ("train.max_text_encoder_steps", train.max_text_encoder_steps),
            ("train.max_text_encoder_epochs", train.max_text_encoder_epochs),
        ];
        let Some((key, _)) = limits.into_iter().find(|(_, limit)| limit.is_some()) else { return };
        if limits.iter().all(|(_, limit)| limit.is_some()) {
            let message = "`train.max_text_encoder_steps` and `train.max_text_encoder_epochs` are both set";
            self.report("train.max_text_encoder_epochs", message).hint = Some("keep the one that is meant".to_owned());
        }
        for (key, limit) in limits {
            self.at_least_one(key, limit);
        }
        // Learned words are no part of it: they go on when its weights stand still.
        let facts = config.trainable_facts();
        if facts.words == Words::Alone {
            self.report(key, format!("`{key}` is set, but only words are trained")).hint = Some("remove it".to_owned());
        } else if facts.text_encoder == Learning::Nothing {
            self.report(key, format!("`{key}` is set, but the text encoder is not trained")).hint =
                Some(match facts.text_encoder_key {
                    Some(key) => format!("set `{key} = true`, or remove it"),
                    None => "remove it".to_owned(),
                });
        } else if !config.trains_unet() {
            self.report(key, format!("`{key}`: nothing is trained once the text encoder stands still")).hint =
                Some("shorten the run with `train.max_steps` instead".to_owned());
        }
    }
}
