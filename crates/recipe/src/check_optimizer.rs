//! What the types cannot say about the optimizer, its learning rate, and the schedule of it.

use crate::check::Checker;
use crate::{Learning, LearningRateScale, Ranges, TrainConfig, Words};

impl Checker<'_> {
    /// Ranges of both sections, and whether they go together.
    pub(crate) fn check_optimizer(&mut self, config: &TrainConfig) {
        let mut ranges = Ranges::default();
        config.optimizer.settings().check(&mut ranges);
        self.report_ranges("optimizer", ranges);
        let mut ranges = Ranges::default();
        config.lr_schedule.check(&mut ranges);
        self.report_ranges("lr_schedule", ranges);
        // A run that is measured in epochs has its steps once its images are looked at.
        let refused = config.train.max_steps.and_then(|steps| config.lr_schedule.refused_in(steps));
        if let Some((key, message, hint)) = refused {
            self.report(key, message).hint = Some(hint);
        }

        let optimizer = config.optimizer.settings();
        if let Some((message, way_out)) = optimizer.refuses(&config.lr_schedule) {
            let (name, schedule) = (optimizer.name(), config.lr_schedule.name());
            let schedule = match config.lr_schedule.is_constant() {
                true => format!("schedule `{schedule}` with a warm-up"),
                false => format!("schedule `{schedule}`"),
            };
            self.report("lr_schedule", format!("optimizer `{name}` cannot follow {schedule}: {message}")).hint =
                Some(way_out);
        }
        if config.ema.enabled && optimizer.averages_weights() {
            self.report("ema.enabled", format!("optimizer `{}` averages the weights by itself", optimizer.name()))
                .hint = Some("leave `[ema]` out: the product holds the average without it".to_owned());
        }
        if optimizer.rest().is_some() && config.trainable_facts().words == Words::Alone {
            let name = optimizer.name();
            let message = format!("`{name}` is made for matrices, and only words are learned, each vector by itself");
            self.report("optimizer.type", message).hint = Some("set `optimizer.type = \"adamw\"`".to_owned());
        }
        if optimizer.finds_its_rate() {
            self.check_own_rate(config);
        }
        self.check_something_learns(config);
    }

    /// A rate of 0 freezes a part; a run in which every part has it would save what it began with.
    fn check_something_learns(&mut self, config: &TrainConfig) {
        let facts = config.trainable_facts();
        // Parts that are left out have a message of their own, and so has a rate of 0 for everything.
        let has_no_word = facts.words == Words::Alone && config.textual_inversion.tokens.is_empty();
        if facts.nothing.is_some() || has_no_word || config.optimizer.learning_rate() == 0.0 {
            return;
        }
        if config.rates_of_parts().iter().any(|&rate| rate != 0.0) {
            return;
        }
        let section = config.trainable_kind().name();
        let key = match (facts.words, facts.unet) {
            (Words::Alone, _) => "textual_inversion.learning_rate".to_owned(),
            (_, Learning::Nothing) => format!("{section}.text_encoder_learning_rate"),
            _ if facts.unet_learning_rate == Some(0.0) && config.blocks.learning_rates.is_none() => {
                format!("{section}.unet_learning_rate")
            }
            _ => "blocks".to_owned(),
        };
        self.report(&key, "nothing is trained: every part that could learn has a learning rate of 0").hint =
            Some("leave one of them out: the part then learns at `optimizer.learning_rate`".to_owned());
    }

    /// An optimizer that finds the size of its steps by itself finds one for all parameters.
    fn check_own_rate(&mut self, config: &TrainConfig) {
        let name = config.optimizer.name();
        let one_rate = format!("`{name}` finds one rate for all that is trained");
        let rate = config.optimizer.learning_rate();
        let is_other = |other: f64| other != rate && other != 0.0;
        let rates = [
            ("lora.text_encoder_learning_rate", config.lora.text_encoder_learning_rate),
            ("lora.text_encoder_2_learning_rate", config.lora.text_encoder_2_learning_rate),
            ("full.text_encoder_learning_rate", config.full.text_encoder_learning_rate),
            ("full.text_encoder_2_learning_rate", config.full.text_encoder_2_learning_rate),
        ];
        for (key, other) in rates {
            if other.is_some_and(is_other) {
                self.report(key, one_rate.as_str()).hint =
                    Some("leave it out, or set it to 0 to leave the text encoder as it is".to_owned());
            }
        }
        let facts = config.trainable_facts();
        let text_rates = [config.text_encoder_learning_rate(), config.text_encoder_2_learning_rate()];
        let text_learns = facts.text_encoder != Learning::Nothing && text_rates != [0.0; 2];
        let words = &config.textual_inversion;
        let words_learn = facts.words == Words::Beside && !words.tokens.is_empty() && words.learning_rate != Some(0.0);
        if words_learn && words.learning_rate.is_some_and(is_other) {
            self.report("textual_inversion.learning_rate", one_rate.as_str()).hint =
                Some("leave it out: words learn at the rate of everything else".to_owned());
        }
        if facts.unet != Learning::Nothing {
            let unet = config.blocks.rates_that_learn(config.unet_learning_rate());
            let are_uneven = unet.iter().any(|one| Some(one) != unet.first());
            if are_uneven || ((text_learns || words_learn) && unet.iter().any(|&one| is_other(one))) {
                let (key, whole) = match config.blocks.is_set() {
                    true if config.blocks.learning_rates.is_some() => ("blocks.learning_rates".to_owned(), "a block"),
                    true => ("blocks".to_owned(), "a block"),
                    false => (format!("{}.unet_learning_rate", config.trainable_kind().name()), "the UNet"),
                };
                self.report(&key, one_rate.as_str()).hint =
                    Some(format!("leave it out; a rate of 0 leaves {whole} as it is"));
            }
        }
        if facts.trains_adapters() {
            let (unet, text) = (facts.unet != Learning::Nothing, text_learns);
            let lora = &config.lora;
            let (unet_ratio, text_ratio) = (lora.loraplus_unet_lr_ratio, lora.loraplus_text_encoder_lr_ratio);
            let for_rest = (unet && unet_ratio.is_none()) || (text && text_ratio.is_none());
            for (key, ratio, is_used) in [
                ("lora.loraplus_lr_ratio", lora.loraplus_lr_ratio, for_rest),
                ("lora.loraplus_unet_lr_ratio", unet_ratio, unet),
                ("lora.loraplus_text_encoder_lr_ratio", text_ratio, text),
            ] {
                if is_used && ratio.is_some_and(|ratio| ratio != 1.0) {
                    self.report(key, one_rate.as_str()).hint =
                        Some("leave it out: upper matrices learn at the rate of everything else".to_owned());
                }
            }
        }
        if config.train.learning_rate_scale != LearningRateScale::None {
            let key = "train.learning_rate_scale";
            self.report(key, format!("`{name}` finds its rate by itself, whatever the batch")).hint =
                Some("leave it out".to_owned());
        }
    }

    fn report_ranges(&mut self, section: &str, ranges: Ranges) {
        for mistake in ranges.mistakes {
            let key = format!("{section}.{}", mistake.key);
            self.report(&key, format!("`{key}` {}", mistake.message)).hint = mistake.hint;
        }
    }
}
