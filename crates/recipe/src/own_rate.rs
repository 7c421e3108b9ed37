//! A learning rate that is written as for other optimizers, of one that finds its rate by itself.

use crate::TrainConfig;

impl TrainConfig {
    /// A warning where the rate that an optimizer finds is multiplied by a small number, which is a learning rate as others take it: such a
    /// run ends having learned next to nothing.
    pub fn own_rate_warning(&self) -> Option<String> {
        // The packages say 1, and `d_coef` or `d0` for less; what is tried by hand is not far from it.
        const LEAST: f64 = 0.1;
        let optimizer = self.optimizer.settings();
        let rate = self.largest_rate();
        if !optimizer.finds_its_rate() || rate >= LEAST || rate == 0.0 {
            return None;
        }
        let (name, written) = (optimizer.name(), optimizer.learning_rate());
        let (what, way_out) = match written < LEAST {
            true => (format!("`optimizer.learning_rate` = {written:e}"), "leave the key out, which is 1"),
            false => (format!("a learning rate of {rate:e}"), "leave the rates of single networks out"),
        };
        Some(format!(
            "{what}: `{name}` finds its rate by itself, and multiplies it by this, so that next to nothing is learned; {way_out}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdafactorConfig, DAdaptAdamConfig, OptimizerConfig, ProdigyConfig};

    fn of(optimizer: OptimizerConfig) -> TrainConfig {
        TrainConfig { optimizer, ..TrainConfig::default() }
    }

    fn prodigy(learning_rate: f64) -> OptimizerConfig {
        OptimizerConfig::Prodigy(ProdigyConfig { learning_rate, ..ProdigyConfig::default() })
    }

    #[test]
    fn a_rate_as_other_optimizers_take_it_is_said_of_one_that_finds_its_own() {
        let dadapt = DAdaptAdamConfig { learning_rate: 1e-3, ..DAdaptAdamConfig::default() };
        for optimizer in [prodigy(1e-4), OptimizerConfig::DadaptAdam(dadapt)] {
            let text = of(optimizer).own_rate_warning().expect("it learns next to nothing");
            assert!(text.contains("`optimizer.learning_rate` = 1e-") && text.contains("leave the key out"), "{text}");
        }
        let mut of_unet = of(prodigy(1.0));
        of_unet.lora.unet_learning_rate = Some(1e-4);
        let text = of_unet.own_rate_warning().expect("nothing else is trained");
        assert!(text.contains("a learning rate of 1e-4") && text.contains("single networks"), "{text}");
        let adafactor = OptimizerConfig::Adafactor(AdafactorConfig::default());
        for optimizer in [prodigy(1.0), prodigy(0.5), adafactor, OptimizerConfig::default()] {
            assert_eq!(of(optimizer.clone()).own_rate_warning(), None, "{optimizer:?}");
        }
    }
}
