//! The strings in an adapter file's header that say what its network is: kohya's `ss_*`, and PEFT's description.

use crate::lora::{Lora, LoraModule};
use sdtrain_recipe::{AdapterKind, DropoutPlace, LoraConfig};
use sdtrain_state_dict::maps::lora_peft::Part;
use sdtrain_state_dict::maps::peft_metadata::{self, AdaptedLayer, PeftConfig};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The `ss_*` keys that name the network itself, as kohya's scripts write them for their own LoRA and with LyCORIS for
/// the other kinds; the trainer adds those of the run.
pub fn kohya_metadata(lora: &Lora, config: &LoraConfig) -> BTreeMap<String, String> {
    let modules = lora.modules();
    let first = modules.first();
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "None".to_string());
    let alpha = asked_alpha(modules.iter().filter(|module| !has_kernel(module)), config);
    let kind = first.map_or(config.kind, |module| module.kind);
    let plain = kind == AdapterKind::Lora && !config.rank_stabilized;
    let arguments = arguments(kind, lora, config);
    // That of an input is PEFT's, and no option of theirs.
    let network_dropout = (config.dropout_at == DropoutPlace::RankActivations).then_some(config.dropout);
    let mut metadata = BTreeMap::from([
        ("ss_network_module".to_string(), if plain { "networks.lora" } else { "lycoris.kohya" }.to_string()),
        ("ss_network_dim".to_string(), or_none(first.and_then(|m| m.rank()).map(|rank| rank.to_string()))),
        ("ss_network_alpha".to_string(), or_none(alpha.map(|alpha| alpha.to_string()))),
        ("ss_network_dropout".to_string(), or_none(network_dropout.map(|dropout| dropout.to_string()))),
        ("ss_scale_weight_norms".to_string(), or_none(config.max_weight_norm.map(|norm| norm.to_string()))),
    ]);
    if !arguments.is_empty() {
        metadata.insert("ss_network_args".to_string(), Value::Object(arguments).to_string());
    }
    metadata
}

/// `ss_network_args`: what kohya's scripts would have been given as `--network_args`. Values are strings there.
fn arguments(kind: AdapterKind, lora: &Lora, config: &LoraConfig) -> Map<String, Value> {
    let mut arguments = Map::new();
    let mut put = |key: &str, value: String| drop(arguments.insert(key.to_string(), json!(value)));
    let algorithm = match kind {
        AdapterKind::Lora => None,
        AdapterKind::Dora => Some("lora"),
        other => Some(other.name()),
    };
    match algorithm {
        Some(algorithm) => put("algo", algorithm.to_string()),
        None if config.rank_stabilized => put("algo", "lora".to_string()),
        None => {}
    }
    match kind {
        AdapterKind::Dora => {
            put("dora_wd", "True".to_string());
            put("wd_on_output", "True".to_string());
        }
        AdapterKind::Lokr => {
            put("factor", config.lokr.factor.map_or("-1".to_string(), |factor| factor.to_string()));
            for (key, value) in
                [("decompose_both", config.lokr.decompose_both), ("full_matrix", config.lokr.full_matrix)]
            {
                if value {
                    put(key, "True".to_string());
                }
            }
        }
        _ => {}
    }
    if config.rank_stabilized && kind.has_rank() {
        put("rs_lora", "True".to_string());
    }
    for (key, probability) in [("rank_dropout", config.rank_dropout), ("module_dropout", config.module_dropout)] {
        if probability > 0.0 {
            put(key, probability.to_string());
        }
    }
    let convolutions = || lora.modules().iter().filter(|module| has_kernel(module));
    for (key, value) in [
        ("conv_dim", convolutions().find_map(LoraModule::rank).map(|rank| rank.to_string())),
        ("conv_alpha", asked_alpha(convolutions(), config).map(|alpha| alpha.to_string())),
    ] {
        if let Some(value) = value {
            put(key, value);
        }
    }
    for (key, list) in [
        ("block_dims", config.block_ranks.as_ref().map(|list| joined(list))),
        ("block_alphas", config.block_alphas.as_ref().map(|list| joined(list))),
        ("conv_block_dims", config.conv_block_ranks.as_ref().map(|list| joined(list))),
        ("conv_block_alphas", config.conv_block_alphas.as_ref().map(|list| joined(list))),
    ] {
        if let Some(list) = list {
            put(key, list);
        }
    }
    arguments
}

/// The alpha that kohya's scripts would have been given for `modules`. An adapter holds another one where the scale is
/// stabilised, and its rank where LoKr needs no scale.
fn asked_alpha<'m>(modules: impl Iterator<Item = &'m LoraModule>, config: &LoraConfig) -> Option<f64> {
    let alphas: Vec<(f64, f64)> = modules.filter_map(|module| Some((module.alpha()?, module.rank()? as f64))).collect();
    let (alpha, rank) = alphas.iter().find(|(alpha, rank)| alpha != rank).or(alphas.first())?;
    // The root was multiplied in, which leaves a last digit.
    let asked = |stabilised: f64| (stabilised / rank.sqrt() * 1e6).round() / 1e6;
    Some(if config.rank_stabilized { asked(*alpha) } else { *alpha })
}

/// Whether it stands beside a convolution that is more than a linear layer for each pixel.
fn has_kernel(module: &LoraModule) -> bool {
    module.layer.site().shape().get(2).is_some_and(|&side| side > 1)
}

fn joined<V: ToString>(list: &[V]) -> String {
    list.iter().map(V::to_string).collect::<Vec<_>>().join(",")
}

/// PEFT's description of each network: kind, ranks and alphas, which its names do not say.
pub(crate) fn peft_metadata(lora: &Lora) -> String {
    let mut layers: BTreeMap<Part, Vec<AdaptedLayer>> = BTreeMap::new();
    for module in lora.modules() {
        let (rank, alpha) = (module.rank().unwrap_or(1) as usize, module.alpha().unwrap_or(1.0));
        layers.entry(module.part).or_default().push(AdaptedLayer { module: &module.path, rank, alpha });
    }
    let kind = lora.modules().first().map(|module| module.kind);
    let configs = layers.iter().map(|(part, layers)| {
        let config = PeftConfig { kind: kind.and_then(peft_type), ..PeftConfig::describing(layers) };
        (*part, PeftConfig { use_dora: kind == Some(AdapterKind::Dora), ..config })
    });
    peft_metadata::to_json(&configs.collect())
}

/// PEFT's name of a kind, where it is no LoRA.
fn peft_type(kind: AdapterKind) -> Option<String> {
    match kind {
        AdapterKind::Loha => Some("LOHA".to_string()),
        AdapterKind::Lokr => Some("LOKR".to_string()),
        AdapterKind::Ia3 => Some("IA3".to_string()),
        AdapterKind::Lora | AdapterKind::Dora | AdapterKind::Full => None,
    }
}
