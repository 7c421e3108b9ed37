//! Reading a folder's `config.json`: shared pieces of the three networks' configurations.

use crate::error::{Error, Result};
use sdtrain_state_dict::architecture::check_sizes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One number for all blocks, or a list with one for each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerBlock {
    /// The same everywhere.
    All(i64),
    /// Block by block, from the outermost.
    Each(Vec<i64>),
}

impl PerBlock {
    /// The number of block `index`.
    pub fn at(&self, index: usize) -> i64 {
        match self {
            PerBlock::All(value) => *value,
            PerBlock::Each(values) => values[index],
        }
    }

    pub(crate) fn check(&self, key: &str, blocks: usize) -> Result<()> {
        match self {
            PerBlock::Each(values) if values.len() != blocks => {
                Err(Error::Config(format!("`{key}` has {} entries for {blocks} blocks", values.len())))
            }
            _ => Ok(()),
        }
    }
}

/// Parses `json` as `T`, whose unknown keys are ignored, and refuses every key of `plain` whose value is not one of
/// those listed: an option that would change the result must not be passed over.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, json: &Value, plain: &[(&str, &[Value])]) -> Result<T> {
    for (key, allowed) in plain {
        match json.get(*key) {
            Some(value) if !value.is_null() && !allowed.contains(value) => {
                let list: Vec<String> = allowed.iter().map(Value::to_string).collect();
                return Err(Error::Config(format!(
                    "{what}: `{key}` = {value} is not supported; known: {}",
                    list.join(", ")
                )));
            }
            _ => {}
        }
    }
    check_sizes(json).map_err(|reason| Error::Config(format!("{what}: {reason}")))?;
    T::deserialize(json).map_err(|error| Error::Config(format!("{what}: {error}")))
}

#[cfg(test)]
mod tests {
    use crate::text_encoder::ClipTextConfig;
    use crate::unet::UNetConfig;
    use crate::vae::VaeConfig;
    use serde_json::json;

    #[test]
    fn sizes_that_no_network_has_are_refused_by_name() {
        for (key, value) in [
            ("norm_num_groups", json!(0)),
            ("layers_per_block", json!(1_000_000_000_000i64)),
            ("block_out_channels", json!([32, -64])),
            ("block_out_channels", json!(vec![32; 17])),
        ] {
            let config = json!({ key: value });
            for error in [UNetConfig::from_json(&config).unwrap_err(), VaeConfig::from_json(&config).unwrap_err()] {
                assert!(error.to_string().contains(key), "{error}");
            }
        }
        let error = ClipTextConfig::from_json(&json!({ "num_hidden_layers": 101 })).unwrap_err().to_string();
        assert!(error.contains("`num_hidden_layers` = 101"), "{error}");
    }
}
