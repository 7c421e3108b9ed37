//! What the types cannot say about `[lora]`.

use crate::check::Checker;
use crate::{AdapterKind, DropoutPlace, KOHYA_BLOCKS, KOHYA_BLOCKS_OF_SDXL, LoraConfig, LoraFormat};

impl Checker<'_> {
    /// Ranges, patterns, lists of blocks, and what goes with which kind.
    pub(crate) fn check_lora(&mut self, lora: &LoraConfig) {
        self.at_least_one("lora.rank", Some(u64::from(lora.rank)));
        self.at_least_one("lora.conv_rank", lora.conv_rank.map(u64::from));
        self.positive("lora.alpha", lora.alpha);
        self.positive("lora.conv_alpha", lora.conv_alpha);
        self.positive("lora.max_weight_norm", lora.max_weight_norm);
        self.at_least_one("lora.lokr.factor", lora.lokr.factor.map(u64::from));
        self.rate("lora.text_encoder_learning_rate", lora.text_encoder_learning_rate);
        self.rate("lora.text_encoder_2_learning_rate", lora.text_encoder_2_learning_rate);
        for (key, probability) in [
            ("lora.dropout", lora.dropout),
            ("lora.rank_dropout", lora.rank_dropout),
            ("lora.module_dropout", lora.module_dropout),
        ] {
            if !(0.0..1.0).contains(&probability) {
                self.report(key, format!("`{key}` must be at least 0 and less than 1, not {probability}"));
            }
        }
        self.existing_or_on_hub("lora.initial", lora.initial.as_deref());
        for (index, target) in lora.targets.iter().flatten().enumerate() {
            self.check_pattern("lora.targets", &format!("lora.targets.{index}"), target);
        }
        for (index, pattern) in lora.ia3.on_input.iter().enumerate() {
            self.check_pattern("lora.ia3.on_input", &format!("lora.ia3.on_input.{index}"), pattern);
        }
        for pattern in lora.rank_pattern.keys() {
            self.check_pattern("lora.rank_pattern", "lora.rank_pattern", pattern);
        }
        for (pattern, &alpha) in &lora.alpha_pattern {
            self.check_pattern("lora.alpha_pattern", "lora.alpha_pattern", pattern);
            self.check_alpha("lora.alpha_pattern", alpha);
        }
        self.check_blocks("lora.block_ranks", lora.block_ranks.as_ref().map(Vec::len));
        self.check_blocks("lora.conv_block_ranks", lora.conv_block_ranks.as_ref().map(Vec::len));
        for (key, alphas) in
            [("lora.block_alphas", &lora.block_alphas), ("lora.conv_block_alphas", &lora.conv_block_alphas)]
        {
            self.check_blocks(key, alphas.as_ref().map(Vec::len));
            alphas.iter().flatten().for_each(|&alpha| self.check_alpha(key, alpha));
        }
        self.check_kind(lora);
    }

    fn check_kind(&mut self, lora: &LoraConfig) {
        if lora.kind == AdapterKind::Full && lora.format != LoraFormat::Kohya {
            let message = "PEFT's form has no place for the whole differences of `lora.kind = \"full\"`";
            self.report("lora.format", message).hint = Some("set `lora.format = \"kohya\"`".to_owned());
        }
        if lora.kind == AdapterKind::Ia3 && lora.dropout > 0.0 {
            let message =
                "`lora.dropout` drops numbers that go through an adapter, which `lora.kind = \"ia3\"` does not have";
            self.report("lora.dropout", message).hint =
                Some("`lora.rank_dropout` leaves channels out, `lora.module_dropout` whole adapters".to_owned());
        }
        if lora.dropout_at == DropoutPlace::RankActivations {
            let has_ranks = matches!(lora.kind, AdapterKind::Lora | AdapterKind::Dora);
            if !has_ranks {
                let kind = lora.kind.name();
                let message =
                    format!("`lora.dropout_at` names activations that `lora.kind = \"{kind}\"` does not have");
                self.report("lora.dropout_at", message).hint = Some("set it to `\"input\"`".to_owned());
            } else if lora.dropout == 0.0 {
                self.report("lora.dropout_at", "`lora.dropout_at` is set, but `lora.dropout` is 0").hint =
                    Some("set both, or remove it".to_owned());
            }
        }
        if (lora.conv_block_ranks.is_some() || lora.conv_block_alphas.is_some()) && !lora.convolutions {
            let key = if lora.conv_block_ranks.is_some() { "lora.conv_block_ranks" } else { "lora.conv_block_alphas" };
            self.report(key, format!("`{key}` is for convolutions, which get no adapters")).hint =
                Some("set `lora.convolutions = true`".to_owned());
        }
    }

    fn check_pattern(&mut self, list: &str, key: &str, pattern: &str) {
        if !may_match(pattern) {
            let message = format!("`{list}` has the pattern \"{pattern}\", which matches no module");
            self.report(key, message).hint = Some("patterns begin with `unet.`, `text_encoder.` or `*`".to_owned());
        }
    }

    fn check_alpha(&mut self, key: &str, alpha: f64) {
        if !(alpha > 0.0 && alpha.is_finite()) {
            self.report(key, format!("an alpha in `{key}` must be greater than 0, not {alpha}"));
        }
    }

    fn check_blocks(&mut self, key: &str, length: Option<usize>) {
        // Whether the model is an SDXL is seen when it is opened.
        if let Some(length) = length.filter(|length| ![KOHYA_BLOCKS, KOHYA_BLOCKS_OF_SDXL].contains(length)) {
            let message = format!(
                "`{key}` has {length} entries, one for each of {KOHYA_BLOCKS} blocks are needed, of SDXL's \
                 {KOHYA_BLOCKS_OF_SDXL}"
            );
            self.report(key, message).hint =
                Some("twelve down, one in the middle, twelve up; `lora.rank_pattern` names modules instead".to_owned());
        }
    }
}

fn may_match(pattern: &str) -> bool {
    pattern.starts_with(['u', 't', '*']) && pattern.trim() == pattern
}
