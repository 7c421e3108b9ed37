//! Rank and alpha of adapters under PEFT names: those files hold no alpha tensors, newer ones say it in their metadata.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::clip::short_name;
use super::lora_peft::Part;

/// One adapted layer of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptedLayer<'m> {
    /// Its path in the network.
    pub module: &'m str,
    /// Its adapter's rank.
    pub rank: usize,
    /// Its adapter's alpha; the scale is alpha/rank.
    pub alpha: f64,
}

/// The metadata key that diffusers reads and writes (diffusers, loaders/lora_base.py).
pub const KEY: &str = "lora_adapter_metadata";

/// What PEFT's `LoraConfig`, `LoHaConfig`, `LoKrConfig` or `IA3Config` says of one network, as far as it bears on the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeftConfig {
    /// The rank of the layers that `rank_pattern` does not name.
    pub rank: usize,
    /// The alpha of the layers that `alpha_pattern` does not name; the scale is alpha/rank.
    pub alpha: f64,
    /// Which layers are adapted, by path or end of path.
    pub target_modules: Vec<String>,
    /// Other ranks, by path or end of path.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas, by path or end of path.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Whether the scale is alpha/√rank (rsLoRA).
    pub use_rslora: bool,
    /// Whether rows have magnitudes (DoRA).
    pub use_dora: bool,
    /// PEFT's name of the kind of adapter, such as `LOHA`; none for a LoRA.
    pub kind: Option<String>,
}

impl PeftConfig {
    /// What describes `layers`: the most frequent rank and alpha, and the layers that have others.
    pub fn describing(layers: &[AdaptedLayer]) -> PeftConfig {
        let rank = most_frequent(layers.iter().map(|layer| layer.rank)).unwrap_or_default();
        let alpha = most_frequent(layers.iter().map(|layer| layer.alpha.to_bits())).map_or(0.0, f64::from_bits);
        let named = |layer: &&AdaptedLayer| layer.module.to_string();
        let other_ranks = layers.iter().filter(|layer| layer.rank != rank);
        let other_alphas = layers.iter().filter(|layer| layer.alpha != alpha);
        PeftConfig {
            rank,
            alpha,
            target_modules: layers.iter().map(|layer| layer.module.to_string()).collect(),
            rank_pattern: other_ranks.map(|layer| (named(&layer), layer.rank)).collect(),
            alpha_pattern: other_alphas.map(|layer| (named(&layer), layer.alpha)).collect(),
            use_rslora: false,
            use_dora: false,
            kind: None,
        }
    }

    /// The alpha that gives the scale of a layer of this rank as alpha/rank, also where it is alpha/√rank.
    pub fn effective_alpha(&self, module: &str, rank: usize) -> f64 {
        let alpha = self.alpha_of(module);
        if self.use_rslora { alpha * (rank as f64).sqrt() } else { alpha }
    }

    /// The alpha of one layer.
    pub fn alpha_of(&self, module: &str) -> f64 {
        find(&self.alpha_pattern, module).copied().unwrap_or(self.alpha)
    }

    /// The rank of one layer.
    pub fn rank_of(&self, module: &str) -> usize {
        find(&self.rank_pattern, module).copied().unwrap_or(self.rank)
    }
}

/// The most frequent value, the smallest of several.
fn most_frequent<V: Ord>(values: impl Iterator<Item = V>) -> Option<V> {
    let mut counts: BTreeMap<V, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}

fn find<'p, V>(pattern: &'p BTreeMap<String, V>, module: &str) -> Option<&'p V> {
    let fits = |end: &str| module == end || module.strip_suffix(end).is_some_and(|start| start.ends_with('.'));
    pattern.iter().find(|(end, _)| fits(end)).map(|(_, value)| value)
}

/// The value to write under [`KEY`]. Layers of a text encoder are named without `text_model.`, which fits as the end of
/// a path both where transformers has that level (before version 5) and where it has not.
pub fn to_json(configs: &BTreeMap<Part, PeftConfig>) -> String {
    let mut object = Map::new();
    for (part, config) in configs {
        let mut put = |key: &str, value: Value| object.insert(format!("{part}.{key}"), value);
        let targets: Vec<&str> = config.target_modules.iter().map(|module| short_name(module)).collect();
        let ranks: BTreeMap<&str, usize> =
            config.rank_pattern.iter().map(|(end, &rank)| (short_name(end), rank)).collect();
        let alphas = config.alpha_pattern.iter().map(|(end, &alpha)| (short_name(end).to_string(), number(alpha)));
        put("target_modules", json!(targets));
        if config.kind.as_deref() != Some(IA3) {
            put("r", json!(config.rank));
            put(if config.kind.is_some() { "alpha" } else { "lora_alpha" }, number(config.alpha));
            put("rank_pattern", json!(ranks));
            put("alpha_pattern", Value::Object(alphas.collect()));
        }
        match &config.kind {
            Some(kind) => put("peft_type", json!(kind)),
            None => {
                put("use_rslora", json!(config.use_rslora));
                put("bias", json!("none"));
                put("lora_dropout", json!(0.0))
            }
        };
        if config.use_dora {
            put("use_dora", json!(true));
        }
    }
    // serde_json's maps are sorted by key, so equal settings give equal text.
    serde_json::to_string_pretty(&Value::Object(object)).expect("an object always serialises")
}

/// Reads the value under [`KEY`]; entries of another form are passed over.
pub fn from_json(text: &str) -> Option<BTreeMap<Part, PeftConfig>> {
    let object: Map<String, Value> = serde_json::from_str(text).ok()?;
    let mut configs = BTreeMap::new();
    for part in [Part::Unet, Part::TextEncoder, Part::TextEncoder2] {
        let get = |key: &str| object.get(&format!("{part}.{key}"));
        let kind = get("peft_type").and_then(Value::as_str).filter(|kind| *kind != "LORA").map(str::to_owned);
        let rank = get("r").and_then(Value::as_u64);
        let Some(rank) = rank.or(kind.as_deref().filter(|kind| *kind == IA3).map(|_| 1)) else {
            continue;
        };
        let strings = |value: &Value| match value {
            Value::Array(list) => list.iter().filter_map(|entry| Some(entry.as_str()?.to_string())).collect(),
            Value::String(one) => vec![one.clone()],
            _ => Vec::new(),
        };
        let entries = |key: &str| get(key).and_then(Value::as_object).cloned().unwrap_or_default().into_iter();
        let config = PeftConfig {
            rank: rank as usize,
            alpha: get("lora_alpha").or(get("alpha")).and_then(Value::as_f64).unwrap_or(rank as f64),
            target_modules: get("target_modules").map(strings).unwrap_or_default(),
            rank_pattern: entries("rank_pattern").filter_map(|(end, v)| Some((end, v.as_u64()? as usize))).collect(),
            alpha_pattern: entries("alpha_pattern").filter_map(|(end, v)| Some((end, v.as_f64()?))).collect(),
            use_rslora: get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
            use_dora: get("use_dora").and_then(Value::as_bool).unwrap_or(false),
            kind,
        };
        configs.insert(part, config);
    }
    Some(configs)
}

/// The kind without ranks.
const IA3: &str = "IA3";

// PEFT writes whole numbers without a fraction.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_comes_back_as_it_was() {
        let config = PeftConfig {
            rank: 8,
            alpha: 4.0,
            target_modules: vec!["to_q".to_string(), "to_out.0".to_string()],
            rank_pattern: BTreeMap::from([("mid_block.attentions.0.proj_in".to_string(), 2)]),
            alpha_pattern: BTreeMap::from([("proj_in".to_string(), 1.5)]),
            ..PeftConfig::default()
        };
        let relative = PeftConfig { kind: Some("LOKR".to_string()), ..config.clone() };
        let configs = BTreeMap::from([(Part::Unet, config.clone()), (Part::TextEncoder, relative)]);
        assert_eq!(from_json(&to_json(&configs)), Some(configs));
        assert_eq!(config.alpha_of("mid_block.attentions.0.proj_in"), 1.5);
        assert_eq!(config.alpha_of("mid_block.attentions.0.other_proj_in"), 4.0);
        assert_eq!(config.rank_of("mid_block.attentions.0.proj_in"), 2);
        assert_eq!(config.rank_of("down_blocks.0.attentions.0.proj_in"), 8);
    }

    #[test]
    fn layers_of_several_ranks_and_alphas_are_described_one_by_one() {
        let layers = [("a.to_q", 4, 2.0), ("a.to_k", 4, 2.0), ("a.conv1", 8, 1.0), ("b.conv1", 8, 2.0)]
            .map(|(module, rank, alpha)| AdaptedLayer { module, rank, alpha });
        let config = PeftConfig::describing(&layers);
        assert_eq!((config.rank, config.alpha), (4, 2.0));
        for layer in &layers {
            assert_eq!(config.rank_of(layer.module), layer.rank);
            assert_eq!(config.effective_alpha(layer.module, layer.rank), layer.alpha);
        }
        assert_eq!((config.rank_pattern.len(), config.alpha_pattern.len()), (2, 1));
        let rslora = PeftConfig { use_rslora: true, ..config };
        assert_eq!(rslora.effective_alpha("a.to_q", 4), 4.0);
    }

    #[test]
    fn text_encoder_layers_are_named_by_the_end_that_every_transformers_has() {
        let config = PeftConfig {
            rank: 4,
            alpha: 4.0,
            target_modules: vec!["text_model.encoder.layers.0.mlp.fc1".to_string()],
            alpha_pattern: BTreeMap::from([("text_model.encoder.layers.1.mlp.fc1".to_string(), 8.0)]),
            ..PeftConfig::default()
        };
        let text = to_json(&BTreeMap::from([(Part::TextEncoder, config)]));
        assert!(!text.contains("text_model"), "{text}");
        let read = from_json(&text).unwrap().remove(&Part::TextEncoder).unwrap();
        assert_eq!(read.target_modules, ["encoder.layers.0.mlp.fc1"]);
        assert_eq!(read.alpha_of("text_model.encoder.layers.1.mlp.fc1"), 8.0);
        assert_eq!(read.alpha_of("text_model.encoder.layers.0.mlp.fc1"), 4.0);
    }

    #[test]
    fn foreign_metadata_is_passed_over() {
        assert_eq!(from_json("[1]"), None);
        assert_eq!(from_json("{\"unet.r\": \"eight\"}"), Some(BTreeMap::new()));
    }
}
