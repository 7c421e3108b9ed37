//! A pull towards zero that is stronger than the weights themselves.

use crate::{AdamWConfig, Learning, TrainConfig, Words};

impl TrainConfig {
    /// A warning where `optimizer.weight_decay` times the largest learning rate leaves nothing of the weights at each step, or turns them
    /// round: they are multiplied by 1 - rate · decay (arXiv:1711.05101).
    pub fn decay_warning(&self) -> Option<String> {
        let optimizer = self.optimizer.settings();
        if optimizer.finds_its_rate() {
            return None;
        }
        let rate = self.largest_rate();
        let own = ("optimizer.weight_decay", optimizer.decoupled_decay(), rate);
        let of_rest =
            |(adamw, times): (&AdamWConfig, f64)| ("optimizer.adamw.weight_decay", adamw.weight_decay, rate * times);
        [Some(own), optimizer.rest().map(of_rest)].into_iter().flatten().find_map(|(key, decay, rate)| {
            let left = 1.0 - rate * decay;
            (left <= 0.0).then(|| {
                format!(
                    "`{key}` = {decay}: times a learning rate of {rate:e} it is 1 or more, and each step multiplies the weights by \
                     {left:.3} before it learns anything"
                )
            })
        })
    }

    /// The largest rate that something is trained at, before any schedule.
    pub(crate) fn largest_rate(&self) -> f64 {
        self.rates_of_parts().into_iter().fold(0.0, f64::max) * self.learning_rate_scale()
    }

    /// The rates of everything that could learn, before any schedule and scale: 0 for what they freeze, nothing for frozen blocks.
    pub(crate) fn rates_of_parts(&self) -> Vec<f64> {
        let facts = self.trainable_facts();
        let [unet_ratio, text_ratio] = facts.loraplus_ratios.map(|ratio| ratio.unwrap_or(1.0).max(1.0));
        let mut rates = Vec::new();
        if facts.unet != Learning::Nothing {
            let of_blocks = self.blocks.rates_that_learn(self.unet_learning_rate());
            rates.extend(of_blocks.into_iter().map(|rate| rate * unet_ratio));
        }
        if facts.text_encoder != Learning::Nothing {
            let of_text = [self.text_encoder_learning_rate(), self.text_encoder_2_learning_rate()];
            rates.extend(of_text.map(|rate| rate * text_ratio));
        }
        if facts.vae != Learning::Nothing {
            rates.push(self.optimizer.learning_rate());
        }
        if facts.words != Words::Never && !self.textual_inversion.tokens.is_empty() {
            rates.push(self.textual_inversion.learning_rate.unwrap_or(self.optimizer.learning_rate()));
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LionConfig, MuonConfig, OptimizerConfig, ProdigyConfig, SgdConfig};

    fn said(optimizer: OptimizerConfig) -> Option<String> {
        TrainConfig { optimizer, ..TrainConfig::default() }.decay_warning()
    }

    #[test]
    fn a_decay_that_leaves_nothing_of_the_weights_is_said() {
        let (learning_rate, weight_decay) = (1e-3, 5000.0);
        let adamw = AdamWConfig { learning_rate, weight_decay, ..AdamWConfig::default() };
        let text = said(OptimizerConfig::AdamW(adamw)).expect("five times what there is");
        assert!(text.contains("= 5000: times a learning rate of 1e-3") && text.contains("by -4.000"), "{text}");
        let lion = LionConfig { learning_rate, weight_decay, ..LionConfig::default() };
        assert!(said(OptimizerConfig::Lion(lion)).is_some());
        // The gradient has it, or the rate is not the one that is set.
        let sgd = SgdConfig { learning_rate, weight_decay, ..SgdConfig::default() };
        let prodigy = ProdigyConfig { weight_decay, ..ProdigyConfig::default() };
        for optimizer in [OptimizerConfig::default(), OptimizerConfig::Sgd(sgd), OptimizerConfig::Prodigy(prodigy)] {
            assert_eq!(said(optimizer.clone()), None, "{optimizer:?}");
        }
    }

    #[test]
    fn what_muon_leaves_to_adamw_is_pulled_at_adamws_own_rate() {
        let adamw = AdamWConfig { learning_rate: 0.1, weight_decay: 15.0, ..AdamWConfig::default() };
        let muon = MuonConfig { adamw, ..MuonConfig::default() };
        let text = said(OptimizerConfig::Muon(muon)).expect("one and a half times what there is");
        assert!(text.contains("`optimizer.adamw.weight_decay` = 15: ") && text.contains("by -0.500"), "{text}");
        assert_eq!(said(OptimizerConfig::Muon(MuonConfig::default())), None);
    }

    #[test]
    fn the_largest_rate_of_all_that_is_trained_counts() {
        let adamw = AdamWConfig { weight_decay: 100.0, ..AdamWConfig::default() };
        let mut config = TrainConfig { optimizer: OptimizerConfig::AdamW(adamw), ..TrainConfig::default() };
        assert_eq!(config.decay_warning(), None, "1e-4 by itself");
        config.lora.unet_learning_rate = Some(0.1);
        assert!(config.decay_warning().is_some());
    }
}
