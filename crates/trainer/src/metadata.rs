//! The strings in a product's header that say how it was made: kohya's `ss_*` and the ModelSpec keys.

use crate::error::Result;
use crate::setup::local_file;
use sdtrain_data_loader::FolderTags;
use sdtrain_diffusion::PredictionType;
use sdtrain_optimizer::ParamGroup;
use sdtrain_recipe::{FloatType, ModelLocation, TrainConfig, published_name};
use sdtrain_state_dict::Family;
use sdtrain_state_dict::metadata::{ModelSpec, architecture, implementation, legacy_model_hash};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes that the tags of `ss_tag_frequency` may take. Whoever looks at a file reads its header whole, and sentences for tags, of a
/// million images, would be more than the 100 MB that readers allow.
const TAG_BYTES: usize = 1 << 20;
/// What stands around a tag: quotes, colon, count, comma.
const AROUND_TAG: usize = 16;

/// What the metadata of a product needs to know beside the configuration.
pub struct RunFacts<'a> {
    /// Images, with repeats.
    pub num_train_images: usize,
    /// Regularization images, with repeats.
    pub num_reg_images: usize,
    /// Held-out images.
    pub num_validation_images: usize,
    /// The subsets with their tags.
    pub folders: &'a [FolderTags],
    /// What [`of_files`] says.
    pub files: Vec<(&'static str, String)>,
    /// Batches.
    pub num_batches_per_epoch: usize,
    /// Optimizer steps of the whole run.
    pub max_train_steps: u64,
    /// The trained groups.
    pub groups: &'a [ParamGroup],
    /// The model's family.
    pub family: Family,
    /// What the model predicts.
    pub prediction_type: PredictionType,
    /// Whether the last timestep is pure noise.
    pub zero_terminal_snr: bool,
    /// `lora` or none.
    pub adapter: Option<&'static str>,
    /// Layers from the end, where the configuration says so.
    pub clip_skip: Option<u32>,
    /// The adapters that became a part of the base, as `sdtrain_adapter::describe` says it.
    pub fused: Option<&'a str>,
}

/// The keys that name the files of base and VAE and tell them from others: `ss_sd_model_hash`, `ss_vae_name` and their like. Folders and the
/// built-in model have no hash.
pub fn of_files(config: &TrainConfig) -> Result<Vec<(&'static str, String)>> {
    let mut entries = Vec::new();
    // What is not found fails the run elsewhere.
    if let Ok(ModelLocation::Path(model)) = ModelLocation::find(&config.model.path) {
        entries.extend(hashes(["ss_sd_model_hash", "ss_new_sd_model_hash"], &model)?);
    }
    if let Some(vae) = &config.model.vae {
        entries.push(("ss_vae_name", published_name(&vae.to_string_lossy())));
        entries.extend(hashes(["ss_vae_hash", "ss_new_vae_hash"], &local_file(vae)?)?);
    }
    Ok(entries)
}

/// The short hash of a file, which reads 64 KiB of it, and the full one where it is known without reading the file.
fn hashes([short, full]: [&'static str; 2], path: &Path) -> Result<Vec<(&'static str, String)>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let mut hashes = vec![(short, legacy_model_hash(path)?)];
    hashes.extend(sha256_in_cache(path).map(|hash| (full, hash)));
    Ok(hashes)
}

/// SHA-256 of a file in the hub's cache, where large files are called by it and were held against it when they came.
fn sha256_in_cache(path: &Path) -> Option<String> {
    let file = path.canonicalize().ok()?;
    let is_in_blobs = file.parent()?.file_name()?.to_str()? == "blobs";
    let name = file.file_name()?.to_str()?;
    let is_sha256 = name.len() == 64 && name.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_in_blobs && is_sha256).then(|| name.to_string())
}

/// `ss_dataset_dirs`, or `ss_reg_dataset_dirs`: no paths, only names.
fn dataset_dirs(folders: &[FolderTags], is_regularization: bool) -> String {
    let mut dirs = Map::new();
    for folder in folders.iter().filter(|folder| folder.is_regularization == is_regularization) {
        let repeats = match folder.repeats.fract() == 0.0 {
            true => json!(folder.repeats as u64),
            false => json!(folder.repeats),
        };
        dirs.insert(folder.name.clone(), json!({ "n_repeats": repeats, "img_count": folder.images }));
    }
    Value::Object(dirs).to_string()
}

/// `ss_tag_frequency`: of too many tags those that are seen most.
fn tag_frequency(folders: &[FolderTags]) -> String {
    let mut all: Vec<(&str, &str, usize)> = Vec::new();
    for folder in folders {
        all.extend(folder.tags.iter().map(|(tag, count)| (folder.name.as_str(), tag.as_str(), *count)));
    }
    // Equal ones stay in the order of folders and of the alphabet.
    all.sort_by_key(|&(.., count)| Reverse(count));
    let mut by_folder: BTreeMap<&str, BTreeMap<&str, usize>> =
        folders.iter().map(|folder| (folder.name.as_str(), BTreeMap::new())).collect();
    let mut bytes = 0;
    for (folder, tag, count) in all {
        bytes += tag.len() + AROUND_TAG;
        if bytes > TAG_BYTES {
            break;
        }
        by_folder.entry(folder).or_default().insert(tag, count);
    }
    json!(by_folder).to_string()
}

/// The header of a product made after `step` steps in `epoch` (counted from 1).
pub fn product_metadata(config: &TrainConfig, facts: &RunFacts, step: u64, epoch: u64) -> BTreeMap<String, String> {
    let (noise, loss) = (&config.noise, &config.loss);
    let trains = |network: &str| facts.groups.iter().any(|group| group.name.split('.').next() == Some(network));
    let scale = config.learning_rate_scale();
    let unet_rate = trains("unet").then(|| (config.unet_learning_rate() * scale).to_string());
    let text_rate = trains("text_encoder").then(|| (config.text_encoder_learning_rate() * scale).to_string());
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "None".to_string());
    let number = |value: f64| or_none((value != 0.0).then(|| value.to_string()));
    let python_bool = |value: bool| if value { "True" } else { "False" }.to_string();
    let resolution = (config.data.resolution.width(), config.data.resolution.height());
    let mixed_precision = match config.precision.compute {
        FloatType::Fp32 => "no",
        other => other.name(),
    };
    let v_prediction = facts.prediction_type == PredictionType::VPrediction;
    let entries = [
        ("ss_v2", python_bool(facts.family.is_kohya_v2())),
        ("ss_base_model_version", facts.family.kohya_version(v_prediction).to_string()),
        ("ss_output_name", config.name.clone()),
        ("ss_learning_rate", config.optimizer.learning_rate().to_string()),
        ("ss_unet_lr", or_none(unet_rate)),
        ("ss_text_encoder_lr", or_none(text_rate)),
        ("ss_optimizer", config.optimizer.in_words()),
        ("ss_lr_scheduler", config.lr_schedule.name().to_string()),
        ("ss_lr_warmup_steps", config.lr_schedule.warmup_steps(facts.max_train_steps).to_string()),
        ("ss_num_train_images", facts.num_train_images.to_string()),
        ("ss_num_reg_images", facts.num_reg_images.to_string()),
        ("ss_num_validation_images", facts.num_validation_images.to_string()),
        ("ss_dataset_dirs", dataset_dirs(facts.folders, false)),
        ("ss_reg_dataset_dirs", dataset_dirs(facts.folders, true)),
        ("ss_tag_frequency", tag_frequency(facts.folders)),
        ("ss_prior_loss_weight", config.loss.prior_loss_weight.to_string()),
        ("ss_num_batches_per_epoch", facts.num_batches_per_epoch.to_string()),
        ("ss_total_batch_size", config.data.batch_size.to_string()),
        ("ss_gradient_accumulation_steps", config.train.gradient_accumulation_steps.to_string()),
        ("ss_gradient_checkpointing", python_bool(config.train.gradient_checkpointing.is_on())),
        ("ss_max_train_steps", facts.max_train_steps.to_string()),
        ("ss_max_grad_norm", config.train.max_grad_norm.to_string()),
        ("ss_mixed_precision", mixed_precision.to_string()),
        ("ss_resolution", format!("({}, {})", resolution.0, resolution.1)),
        ("ss_enable_bucket", python_bool(config.data.bucketing.enabled)),
        ("ss_cache_latents", python_bool(config.data.cache_latents)),
        ("ss_clip_skip", or_none(facts.clip_skip.map(|n| n.to_string()))),
        ("ss_max_token_length", or_none(config.model.max_token_length.map(|length| length.to_string()))),
        ("ss_noise_offset", number(noise.offset)),
        ("ss_noise_offset_random_strength", python_bool(noise.offset_random_strength)),
        ("ss_adaptive_noise_scale", number(noise.adaptive_offset_scale)),
        ("ss_multires_noise_iterations", number(f64::from(noise.multires_iterations))),
        ("ss_multires_noise_discount", noise.effective_multires_discount().to_string()),
        ("ss_ip_noise_gamma", number(noise.input_perturbation)),
        ("ss_ip_noise_gamma_random_strength", python_bool(noise.input_perturbation_random_strength)),
        ("ss_zero_terminal_snr", python_bool(facts.zero_terminal_snr)),
        ("ss_min_snr_gamma", or_none(loss.min_snr_gamma.map(|gamma| gamma.to_string()))),
        ("ss_debiased_estimation", python_bool(loss.debiased_estimation)),
        ("ss_loss_type", loss.loss_type.kohya_name().to_string()),
        ("ss_huber_schedule", loss.effective_huber_schedule().name().to_string()),
        ("ss_huber_scale", loss.effective_huber_scale().to_string()),
        ("ss_huber_c", loss.effective_huber_c().to_string()),
        ("ss_seed", config.seed.to_string()),
        ("ss_steps", step.to_string()),
        ("ss_epoch", epoch.to_string()),
        ("ss_sd_model_name", published_name(&config.model.path)),
        ("sdtrain.version", env!("CARGO_PKG_VERSION").to_string()),
    ];
    let spec = ModelSpec {
        architecture: architecture(facts.family, v_prediction, facts.adapter),
        implementation: implementation(facts.family, facts.adapter).into(),
        title: config.name.clone(),
        resolution: Some(resolution),
        prediction_type: Some(if v_prediction { "v" } else { "epsilon" }.into()),
        encoder_layer: facts.clip_skip,
        ..ModelSpec::default()
    };
    let fused = facts.fused.map(|fused| (sdtrain_adapter::FUSED_KEY.to_string(), fused.to_string()));
    let entries = entries.into_iter().chain(facts.files.iter().cloned());
    entries.map(|(key, value)| (key.to_string(), value)).chain(spec.keys()).chain(fused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(name: &str, repeats: f64, is_regularization: bool, tags: &[(&str, usize)]) -> FolderTags {
        let tags = tags.iter().map(|&(tag, count)| (tag.to_string(), count)).collect();
        FolderTags { name: name.into(), repeats, images: 3, is_regularization, tags }
    }

    #[test]
    fn folders_and_tags_are_told_as_kohyas_scripts_tell_them() {
        let folders =
            [folder("b \"x\"", 10.0, false, &[("sks dog", 3)]), folder("a", 0.5, true, &[("dog", 2), ("b", 2)])];
        let told = |text: String| -> Value { serde_json::from_str(&text).expect("JSON") };
        assert_eq!(told(dataset_dirs(&folders, false)), json!({ "b \"x\"": { "n_repeats": 10, "img_count": 3 } }));
        assert_eq!(told(dataset_dirs(&folders, true)), json!({ "a": { "n_repeats": 0.5, "img_count": 3 } }));
        assert_eq!(told(tag_frequency(&folders)), json!({ "b \"x\"": { "sks dog": 3 }, "a": { "b": 2, "dog": 2 } }));
    }

    #[test]
    fn of_too_many_tags_the_most_frequent_are_told() {
        let mut many = folder("sentences", 1.0, false, &[("frequent", 2)]);
        many.tags.extend((0..200_000).map(|number| (format!("a sentence, the {number:06}th"), 1)));
        let text = tag_frequency(&[many]);
        assert!(text.len() > TAG_BYTES / 2 && text.len() < TAG_BYTES + 1000, "{}", text.len());
        assert!(text.contains("\"frequent\":2") && text.contains("000000th") && !text.contains("199999th"));
    }

    #[test]
    fn files_of_the_hub_are_known_by_their_sha256_and_others_by_the_short_hash() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let (name, at) = ("0123456789abcdef".repeat(4), |name: &str| scratch.path().join(name));
        fs::create_dir(at("blobs")).expect("there is room");
        for place in [format!("blobs/{name}"), "vae.safetensors".to_string()] {
            fs::write(at(&place), vec![7; 0x12_0000]).expect("there is room");
        }
        std::os::unix::fs::symlink(at(&format!("blobs/{name}")), at("model.safetensors")).expect("there is room");
        let mut config = TrainConfig::default();
        config.model.path = at("model.safetensors").display().to_string();
        config.model.vae = Some(at("vae.safetensors"));
        let short = legacy_model_hash(&at("vae.safetensors")).expect("a file");
        assert_eq!(
            of_files(&config).expect("files"),
            [
                ("ss_sd_model_hash", short.clone()),
                ("ss_new_sd_model_hash", name.clone()),
                ("ss_vae_name", "vae.safetensors".to_string()),
                ("ss_vae_hash", short),
            ]
        );
        config.model.path = scratch.path().display().to_string();
        config.model.vae = None;
        assert!(of_files(&config).expect("nothing to read").is_empty());
    }
}
