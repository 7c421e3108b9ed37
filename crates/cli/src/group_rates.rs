//! The learning rates of a run's parts, told from names alone: the engine's rule, for `check`.

use sdtrain_recipe::{TrainConfig, UnetBlocks};

use crate::model_parts::ModelParts;
use crate::{ExitCode, Failure};

/// What learns how fast.
pub(crate) struct GroupRates<'c> {
    config: &'c TrainConfig,
    text_encoders: usize,
    numbering: UnetBlocks,
    /// One a block of the UNet, where blocks have rates of their own.
    blocks: Option<Vec<f64>>,
}

impl<'c> GroupRates<'c> {
    /// What `config` says for the blocks of this model.
    pub fn of(config: &'c TrainConfig, parts: &ModelParts) -> Result<GroupRates<'c>, Failure> {
        let text_encoders = parts.text_encoders.len();
        if let Some((message, hint)) = config.second_rate_refused(text_encoders) {
            return Err(Failure::new(ExitCode::Configuration, message).hint(hint));
        }
        let own = UnetBlocks::of_names(parts.unet.keys().map(String::as_str));
        if let Some((message, hint)) = config.lora.block_list_refused(&own) {
            return Err(Failure::new(ExitCode::Configuration, message).hint(hint));
        }
        let numbering = config.blocks.numbering(own);
        let blocks = config.blocks.rates(config.unet_learning_rate(), &numbering).map_err(|mistake| {
            let message = format!("`blocks.{}` {}", mistake.key, mistake.message);
            Failure::new(ExitCode::Configuration, message).maybe_hint(mistake.hint)
        })?;
        Ok(GroupRates { config, text_encoders, numbering, blocks })
    }

    /// Whether the parameter `name` of `network` lies in a block whose rate is 0.
    pub fn freezes(&self, network: &str, name: &str) -> bool {
        let rate = |blocks: &Vec<f64>| blocks.get(self.numbering.number_of(name)).copied();
        network == "unet" && self.blocks.as_ref().and_then(rate) == Some(0.0)
    }

    /// What there is to say beside the one learning rate, a line each.
    pub fn lines(&self) -> Vec<String> {
        let (config, mut lines) = (self.config, Vec::new());
        let common = config.optimizer.learning_rate();
        let scale = config.learning_rate_scale();
        let networks = [
            ("unet", config.trains_unet(), config.unet_learning_rate()),
            ("text_encoder", config.trains_text_encoder(), config.text_encoder_learning_rate()),
            (
                "text_encoder_2",
                config.trains_text_encoder() && self.text_encoders > 1,
                config.text_encoder_2_learning_rate(),
            ),
        ];
        let [unet_plus, text_plus] = config.trainable_facts().loraplus_ratios;
        for ((network, trained, rate), plus) in networks.into_iter().zip([unet_plus, text_plus, text_plus]) {
            let plus = plus.map(|ratio| format!(", its upper matrices {}", short(rate * ratio * scale)));
            let plus = plus.unwrap_or_default();
            if trained && (rate != common || !plus.is_empty()) {
                lines.push(format!("{network}: learning rate {}{plus}", short(rate * scale)));
            }
        }
        if let Some(blocks) = &self.blocks {
            let blocks: Vec<f64> = blocks.iter().map(|rate| rate * scale).collect();
            lines.push(format!("unet, blocks from `conv_in` to `conv_out`: {}", in_runs(&blocks)));
        }
        let train = &config.train;
        let limits = [("step", train.max_text_encoder_steps), ("epoch", train.max_text_encoder_epochs)];
        for (unit, limit) in limits {
            lines.extend(limit.map(|limit| format!("text_encoder: stands still after {unit} {limit}")));
        }
        lines
    }
}

/// `0–2 frozen, 3–12 1e-4, 13–24 5e-5`.
fn in_runs(rates: &[f64]) -> String {
    let mut runs: Vec<(usize, usize, f64)> = Vec::new();
    for (number, &rate) in rates.iter().enumerate() {
        match runs.last_mut() {
            Some((_, last, run_rate)) if *run_rate == rate => *last = number,
            _ => runs.push((number, number, rate)),
        }
    }
    let run = |(first, last, rate): (usize, usize, f64)| {
        let numbers = if first == last { first.to_string() } else { format!("{first}–{last}") };
        if rate == 0.0 { format!("{numbers} frozen") } else { format!("{numbers} {}", short(rate)) }
    };
    runs.into_iter().map(run).collect::<Vec<_>>().join(", ")
}

/// Curves and products make rates of many digits, of which three tell enough.
pub(crate) fn short(rate: f64) -> String {
    if rate == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{rate:.2e}");
    text.replace(".00e", "e").replacen("0e", "e", 1)
}

#[cfg(test)]
mod tests {
    use super::{in_runs, short};

    #[test]
    fn equal_rates_in_a_row_are_said_once() {
        let rates = [0.0, 0.0, 1e-4, 1e-4, 1e-4, 5e-5, 0.0];
        assert_eq!(in_runs(&rates), "0–1 frozen, 2–4 1e-4, 5 5e-5, 6 frozen");
        assert_eq!(
            (short(1.234e-5).as_str(), short(1.2e-5).as_str(), short(2e-3).as_str()),
            ("1.23e-5", "1.2e-5", "2e-3")
        );
        assert_eq!((short(1e-4 * 6.0).as_str(), short(0.0).as_str()), ("6e-4", "0"));
    }
}
