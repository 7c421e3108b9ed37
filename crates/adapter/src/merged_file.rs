//! Files of merged adapters, in kohya's and in PEFT's form.

use crate::error::Result;
use crate::sum::{MergedLayer, WholeChange};
use sdtrain_model::TensorReader;
use sdtrain_state_dict::maps::lora_kohya::{KohyaNaming, kohya_name};
use sdtrain_state_dict::maps::lora_peft::{LoraKey, LoraTensor, Part, peft_name};
use sdtrain_state_dict::maps::peft_metadata::{self, AdaptedLayer, PeftConfig};
use sdtrain_state_dict::metadata::sshs_hashes;
use sdtrain_state_dict::write_source;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tch::{Kind, Tensor};

/// Writes `layers` in kohya's form. `metadata` joins the header, with the hashes that other programs know a file by.
pub fn save_merged_kohya(
    path: &Path,
    layers: &[MergedLayer],
    kind: Kind,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let inputs = layers.iter().map(|layer| (layer.part, layer.path.as_str(), inputs(&layer.down)));
    let naming = KohyaNaming::of_adapters(inputs, metadata);
    let tensors = tensors(layers, kind, &|key| Some(kohya_name(key, &naming)));
    let mut metadata = metadata.clone();
    metadata.extend(network_metadata(layers));
    let (model_hash, legacy_hash) = sshs_hashes(&tensors, &metadata)?;
    metadata.insert("sshs_model_hash".into(), model_hash);
    metadata.insert("sshs_legacy_hash".into(), legacy_hash);
    Ok(write_source(path, &tensors, &metadata)?)
}

/// Writes `layers` in PEFT's form; alpha is the rank everywhere, which readers of the tensors alone assume as well.
pub fn save_merged_peft(
    path: &Path,
    layers: &[MergedLayer],
    kind: Kind,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut described: BTreeMap<Part, Vec<AdaptedLayer>> = BTreeMap::new();
    for layer in layers {
        let entry = AdaptedLayer { module: &layer.path, rank: layer.rank() as usize, alpha: layer.rank() as f64 };
        described.entry(layer.part).or_default().push(entry);
    }
    let configs = described.iter().map(|(part, layers)| (*part, PeftConfig::describing(layers))).collect();
    let mut metadata = metadata.clone();
    metadata.extend(network_metadata(layers));
    metadata.insert("format".into(), "pt".into());
    metadata.insert(peft_metadata::KEY.into(), peft_metadata::to_json(&configs));
    let tensors = tensors(layers, kind, &|key| (key.tensor != LoraTensor::Alpha).then(|| peft_name(key)));
    Ok(write_source(path, &tensors, &metadata)?)
}

/// Writes `changes` as whole differences under LyCORIS' names (`.diff`, `.diff_b`), in kohya's form.
pub fn save_merged_full(
    path: &Path,
    changes: &[WholeChange],
    kind: Kind,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let inputs = changes.iter().map(|change| (change.part, change.path.as_str(), inputs(&change.diff)));
    let naming = KohyaNaming::of_adapters(inputs, metadata);
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for change in changes {
        let bias = change.bias.iter().map(|bias| (LoraTensor::DiffBias, bias));
        for (tensor, value) in std::iter::once((LoraTensor::Diff, &change.diff)).chain(bias) {
            let key = LoraKey { part: change.part, module: change.path.clone(), tensor };
            tensors.push((kohya_name(&key, &naming), value.shallow_clone()));
        }
    }
    let tensors = TensorReader::new(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), Some(kind));
    let mut metadata = metadata.clone();
    for (key, value) in [
        ("ss_network_module", "lycoris.kohya"),
        ("ss_network_dim", "None"),
        ("ss_network_alpha", "None"),
        ("ss_network_args", "{\"algo\":\"full\"}"),
    ] {
        metadata.insert(key.into(), value.into());
    }
    let (model_hash, legacy_hash) = sshs_hashes(&tensors, &metadata)?;
    metadata.insert("sshs_model_hash".into(), model_hash);
    metadata.insert("sshs_legacy_hash".into(), legacy_hash);
    Ok(write_source(path, &tensors, &metadata)?)
}

/// Of the layer beside a matrix whose columns they are.
fn inputs(matrix: &Tensor) -> Option<usize> {
    matrix.size().get(1).map(|&inputs| inputs as usize)
}

fn tensors(layers: &[MergedLayer], kind: Kind, name: &dyn Fn(&LoraKey) -> Option<String>) -> TensorReader {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for layer in layers {
        let alpha = Tensor::from(layer.rank() as f32);
        for (tensor, value) in
            [(LoraTensor::Down, &layer.down), (LoraTensor::Up, &layer.up), (LoraTensor::Alpha, &alpha)]
        {
            let key = LoraKey { part: layer.part, module: layer.path.clone(), tensor };
            tensors.extend(name(&key).map(|name| (name, value.shallow_clone())));
        }
    }
    TensorReader::new(tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), Some(kind))
}

/// The `ss_` keys that name the network; `Dynamic` is how kohya's tools say that layers differ.
fn network_metadata(layers: &[MergedLayer]) -> BTreeMap<String, String> {
    let ranks: BTreeSet<i64> = layers.iter().map(MergedLayer::rank).collect();
    let rank = match ranks.first() {
        Some(rank) if ranks.len() == 1 => rank.to_string(),
        _ => "Dynamic".to_string(),
    };
    BTreeMap::from([
        ("ss_network_module".to_string(), "networks.lora".to_string()),
        ("ss_network_dim".to_string(), rank.clone()),
        ("ss_network_alpha".to_string(), rank),
    ])
}
