//! Adapters as a part of a model's own weights.

use crate::error::Result;
use crate::file::LoraFile;
use crate::lora::Networks;
use sdtrain_model::StableDiffusion;
use sdtrain_state_dict::metadata::full_model_hash;
use sdtrain_state_dict::open_file;
use std::path::PathBuf;

/// An adapter file and how strongly it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedAdapter {
    /// A file of any kind that [`LoraFile`] reads.
    pub path: PathBuf,
    /// 1 as it was trained, negative to take it away.
    pub weight: f64,
}

/// Adds the exact weight change of each of `adapters` to `model`, one after the other: computed in f32, rounded to the
/// dtype of the weights, so those should be f32. A kind whose change depends on the weight takes it as those before it
/// left it.
pub fn fold(model: &StableDiffusion, adapters: &[WeightedAdapter]) -> Result<()> {
    let networks = Networks::of(model);
    for adapter in adapters {
        let file = open_file(&adapter.path)?;
        let lora = LoraFile::read(&file, &networks)?.into_lora(&networks)?;
        lora.set_strength(adapter.weight);
        lora.merge(&networks)?;
    }
    Ok(())
}

/// Metadata key of a merged file: what it was made of, as [`describe`] says it.
pub const MERGED_KEY: &str = "sdtrain.merged";

/// Metadata key of a product whose base had adapters fused into it before training, as [`describe`] says it.
pub const FUSED_KEY: &str = "sdtrain.fused";

/// `[{"file": NAME, "sha256": HASH, "weight": WEIGHT}, …]`: which files, how strongly.
pub fn describe(adapters: &[WeightedAdapter]) -> Result<String> {
    let mut entries = Vec::new();
    for adapter in adapters {
        let name = adapter.path.file_name().unwrap_or_default().to_string_lossy();
        let hash = full_model_hash(&adapter.path)?;
        entries.push(serde_json::json!({ "file": name, "sha256": hash, "weight": adapter.weight }));
    }
    Ok(serde_json::Value::Array(entries).to_string())
}
