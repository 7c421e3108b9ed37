//! Parameters sorted into the groups that share a learning rate: networks, blocks of the UNet, LoRA+'s upper matrices.
//!
//! A group is named as it appears in logs: `unet`, `text_encoder`, `text_encoder_2`; where blocks have rates of their own `unet.block_07`;
//! with LoRA+ the upper matrices apart, as `unet.plus` or `unet.block_07.plus`.

use crate::error::{Error, Result};
use sdtrain_model::StableDiffusion;
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{TrainConfig, UnetBlocks};
use std::collections::BTreeMap;
use tch::Tensor;

/// The learning rates of a run, before any schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRates {
    unet: NetworkRates,
    text_encoder: NetworkRates,
    text_encoder_2: NetworkRates,
    blocks: Option<BlockRates>,
}

/// The rates of one network.
#[derive(Debug, Clone, Copy, PartialEq)]
struct NetworkRates {
    rate: f64,
    /// How many times the rate the upper matrices of a LoRA learn.
    plus_ratio: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
struct BlockRates {
    numbering: UnetBlocks,
    /// One a block.
    rates: Vec<f64>,
}

impl GroupRates {
    /// What `config` says for the blocks of `model`.
    pub fn new(config: &TrainConfig, model: &StableDiffusion) -> Result<GroupRates> {
        let [unet_plus, text_plus] = config.trainable_facts().loraplus_ratios;
        let unet = NetworkRates { rate: config.unet_learning_rate(), plus_ratio: unet_plus };
        let text_encoder = NetworkRates { rate: config.text_encoder_learning_rate(), plus_ratio: text_plus };
        let text_encoder_2 = NetworkRates { rate: config.text_encoder_2_learning_rate(), plus_ratio: text_plus };
        if let Some((message, hint)) = config.second_rate_refused(model.text_encoders.len()) {
            return Err(Error::Config { message, hint: Some(hint) });
        }
        let own = UnetBlocks::of_names(model.unet.parameters().iter().map(|(name, _)| name));
        if let Some((message, hint)) = config.lora.block_list_refused(&own) {
            return Err(Error::Config { message, hint: Some(hint) });
        }
        let numbering = config.blocks.numbering(own);
        let rates = config.blocks.rates(unet.rate, &numbering).map_err(|mistake| Error::Config {
            message: format!("`blocks.{}` {}", mistake.key, mistake.message),
            hint: mistake.hint,
        })?;
        let blocks = rates.map(|rates| BlockRates { numbering, rates });
        Ok(GroupRates { unet, text_encoder, text_encoder_2, blocks })
    }

    /// Whether `name` (of a parameter or of a layer, behind its network's) lies in a block whose rate is 0.
    pub fn freezes(&self, name: &str) -> bool {
        self.block_of(name).is_some_and(|(_, rate)| rate == 0.0)
    }

    /// Number and rate of the block of the UNet that `name` is part of, where blocks have rates of their own.
    fn block_of(&self, name: &str) -> Option<(usize, f64)> {
        let (blocks, name) = (self.blocks.as_ref()?, name.strip_prefix("unet.")?);
        let number = blocks.numbering.number_of(name);
        Some((number, blocks.rates.get(number).copied().unwrap_or(self.unet.rate)))
    }

    /// `parameters`, named as in traces, in groups: the UNet's before the text encoders', blocks in their order.
    pub fn groups(&self, parameters: Vec<(String, Tensor)>) -> Vec<ParamGroup> {
        let mut groups: BTreeMap<(usize, Option<usize>, bool), ParamGroup> = BTreeMap::new();
        for (name, tensor) in parameters {
            let (place, network, title) = match name.split('.').next() {
                Some("text_encoder") => (1, self.text_encoder, "text_encoder"),
                Some("text_encoder_2") => (2, self.text_encoder_2, "text_encoder_2"),
                _ => (0, self.unet, "unet"),
            };
            let block = self.block_of(&name);
            let plus_ratio = network.plus_ratio.filter(|_| name.contains(".lora_B."));
            let new = || {
                let block_part = block.map(|(number, _)| format!(".block_{number:02}")).unwrap_or_default();
                let plus_part = if plus_ratio.is_some() { ".plus" } else { "" };
                let rate = block.map_or(network.rate, |(_, rate)| rate) * plus_ratio.unwrap_or(1.0);
                ParamGroup { name: format!("{title}{block_part}{plus_part}"), learning_rate: rate, parameters: vec![] }
            };
            let key = (place, block.map(|(number, _)| number), plus_ratio.is_some());
            groups.entry(key).or_insert_with(new).parameters.push((name, tensor));
        }
        groups.into_values().collect()
    }
}
