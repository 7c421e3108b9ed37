//! Whole models: a single file with the original names, a diffusers folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sdtrain_state_dict::{
    Error as FileError, FileKind, FromReader, Reader, canonical_text_encoder, canonical_unet, canonical_vae,
    ldm_single_file, open_component, recognise, to_ldm, write_source,
};
use sdtrain_tokenizer::{ClipTokenizer, Tokenizer};
use serde_json::{Value as Json, json};

use super::sd1;
use crate::model_parts::read_json;
use crate::{ExitCode, Failure};

/// Metadata keys under which this program's single files of other sizes than SD1's carry their configurations.
const UNET: &str = "sdtrain.unet";
const VAE: &str = "sdtrain.vae";
const TEXT_ENCODER: &str = "sdtrain.text_encoder";
const SCHEDULER: &str = "sdtrain.scheduler";
const VOCAB: &str = "sdtrain.tokenizer.vocab";
const MERGES: &str = "sdtrain.tokenizer.merges";

/// The files beside the weights of a diffusers folder.
struct Configs {
    unet: Json,
    vae: Json,
    text_encoder: Json,
    scheduler: Json,
    tokenizer: ClipTokenizer,
}

pub(super) fn to_folder(file: Arc<dyn Reader>, folder: &Path) -> Result<(), Failure> {
    let path = file.path().to_path_buf();
    let kind = recognise(&file);
    if !matches!(kind, FileKind::LdmSd1 { .. }) {
        let message =
            format!("`{}` is a {kind}; only single files of the SD1 family become a diffusers folder", path.display());
        return Err(Failure::new(ExitCode::Model, message));
    }
    let parts = ldm_single_file(file.clone())?;
    let lacks = |part: &str| Failure::new(ExitCode::Model, format!("`{}` holds no {part}", path.display()));
    let vae = parts.vae.as_ref().ok_or_else(|| lacks("VAE"))?;
    let text_encoder = parts.text_encoder.as_ref().ok_or_else(|| lacks("text encoder"))?;
    let configs = match has_embedded_configs(file.as_ref()) {
        true => embedded_configs(file.as_ref())?,
        false => sd1_configs(&parts.unet, &path)?,
    };

    let staging = staging_folder(folder)?;
    let written = write_folder(&staging, &configs, [&parts.unet, vae, text_encoder]);
    if let Err(failure) = written.and_then(|()| publish(&staging, folder)) {
        // The staging folder is this program's own; what cannot be removed is overwritten by the next try.
        let _ = fs::remove_dir_all(&staging);
        return Err(failure);
    }
    Ok(())
}

pub(crate) fn to_single_file(folder: &Path, output: &Path) -> Result<(), Failure> {
    let unet = canonical_unet(open_component(&folder.join("unet"), "diffusion_pytorch_model")?)?;
    let vae = canonical_vae(open_component(&folder.join("vae"), "diffusion_pytorch_model")?)?;
    let text_encoder = canonical_text_encoder(open_component(&folder.join("text_encoder"), "model")?)?;
    let unet_config = read_json(&folder.join("unet/config.json"))?;
    let vae_config = read_json(&folder.join("vae/config.json"))?;
    let text_config = read_json(&folder.join("text_encoder/config.json"))?;
    let scheduler = read_json(&folder.join("scheduler/scheduler_config.json"))?;

    let mut metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let epsilon = scheduler["prediction_type"].as_str().is_none_or(|kind| kind == "epsilon");
    let is_sd1 = unet_config["block_out_channels"] == sd1::unet(4)["block_out_channels"]
        && vae_config["block_out_channels"] == sd1::vae()["block_out_channels"]
        && text_config["vocab_size"] == sd1::text_encoder()["vocab_size"]
        && epsilon;
    if !is_sd1 {
        let configs = [(UNET, unet_config), (VAE, vae_config), (TEXT_ENCODER, text_config), (SCHEDULER, scheduler)];
        metadata.extend(configs.map(|(key, config)| (key.to_owned(), config.to_string())));
        let tokenizer = ClipTokenizer::from_folder(folder.join("tokenizer")).map_err(tokenizer_failure)?;
        for (name, content) in tokenizer.files() {
            let key = match name.as_str() {
                "vocab.json" => VOCAB,
                "merges.txt" => MERGES,
                _ => continue,
            };
            metadata.insert(key.to_owned(), String::from_utf8_lossy(&content).into_owned());
        }
    }
    let joined = to_ldm(&unet, &vae, &text_encoder)?;
    Ok(write_source(output, &FromReader(&joined), &metadata)?)
}

fn embedded_configs(file: &dyn Reader) -> Result<Configs, Failure> {
    let tokenizer = embedded_tokenizer(file)?;
    let parsed = |key: &str| embedded_json(file, key);
    Ok(Configs {
        unet: parsed(UNET)?,
        vae: parsed(VAE)?,
        text_encoder: parsed(TEXT_ENCODER)?,
        scheduler: parsed(SCHEDULER)?,
        tokenizer,
    })
}

/// Whether a single file carries configurations and a tokenizer of its own, since it has other sizes than SD1.
pub(crate) fn has_embedded_configs(file: &dyn Reader) -> bool {
    file.metadata().contains_key(UNET)
}

/// The tokenizer that such a file carries.
pub(crate) fn embedded_tokenizer(file: &dyn Reader) -> Result<ClipTokenizer, Failure> {
    let text_encoder = embedded_json(file, TEXT_ENCODER)?;
    let window = text_encoder["max_position_embeddings"].as_u64().unwrap_or(77) as usize;
    let (vocab, merges) = (embedded_text(file, VOCAB)?, embedded_text(file, MERGES)?);
    ClipTokenizer::from_parts(vocab.as_bytes(), merges.as_bytes(), "<|endoftext|>", window).map_err(tokenizer_failure)
}

fn embedded_text<'a>(file: &'a dyn Reader, key: &str) -> Result<&'a str, Failure> {
    let message = || format!("`{}`: its metadata has `{UNET}` but no `{key}`", file.path().display());
    file.metadata().get(key).map(String::as_str).ok_or_else(|| Failure::new(ExitCode::Model, message()))
}

fn embedded_json(file: &dyn Reader, key: &str) -> Result<Json, Failure> {
    let message = |error| format!("`{}`: metadata `{key}`: {error}", file.path().display());
    serde_json::from_str(embedded_text(file, key)?).map_err(|error| Failure::new(ExitCode::Model, message(error)))
}

/// A file without configurations must have the sizes of SD1, or a reader could not know them.
fn sd1_configs(unet: &dyn Reader, path: &Path) -> Result<Configs, Failure> {
    let shape = |name: &str| unet.info(name).map(|info| info.shape.clone()).unwrap_or_default();
    let conv_in = shape("conv_in.weight");
    let context = shape("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight");
    if conv_in.first() != Some(&320) || context.get(1) != Some(&768) {
        let message = format!("`{}` has other sizes than SD1 and carries no configuration", path.display());
        return Err(Failure::new(ExitCode::Model, message));
    }
    Ok(Configs {
        unet: sd1::unet(conv_in[1]),
        vae: sd1::vae(),
        text_encoder: sd1::text_encoder(),
        scheduler: sd1::scheduler(),
        tokenizer: ClipTokenizer::builtin(),
    })
}

fn write_folder(folder: &Path, configs: &Configs, [unet, vae, text_encoder]: [&dyn Reader; 3]) -> Result<(), Failure> {
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        let path = folder.join(part);
        fs::create_dir_all(&path).map_err(save_failure(&path))?;
    }
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, content).map_err(save_failure(&path))
    };
    let scheduler_class = configs.scheduler["_class_name"].as_str().unwrap_or("PNDMScheduler");
    let index = json!({
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "feature_extractor": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "scheduler": ["diffusers", scheduler_class],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    let files = [
        ("model_index.json", &index),
        ("unet/config.json", &configs.unet),
        ("vae/config.json", &configs.vae),
        ("text_encoder/config.json", &configs.text_encoder),
        ("scheduler/scheduler_config.json", &configs.scheduler),
    ];
    for (name, json) in files {
        write(name, format!("{json:#}\n").as_bytes())?;
    }
    for (name, content) in configs.tokenizer.files() {
        write(&format!("tokenizer/{name}"), &content)?;
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    for (name, part) in [
        ("unet/diffusion_pytorch_model.safetensors", unet),
        ("vae/diffusion_pytorch_model.safetensors", vae),
        ("text_encoder/model.safetensors", text_encoder),
    ] {
        write_source(&folder.join(name), &FromReader(part), &metadata)?;
    }
    Ok(())
}

/// An empty folder beside `folder`, which takes its name once it is complete.
fn staging_folder(folder: &Path) -> Result<PathBuf, Failure> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let is_replaceable = !folder.exists()
        || folder.join("model_index.json").is_file()
        || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    if name.is_empty() || !is_replaceable {
        let message = format!("`{}` exists and is no diffusers folder", folder.display());
        return Err(Failure::new(ExitCode::Configuration, message).hint("name a folder that does not exist yet"));
    }
    let staging = folder.with_file_name(format!(".{name}.partial"));
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(save_failure(&staging))?;
    }
    Ok(staging)
}

fn publish(staging: &Path, folder: &Path) -> Result<(), Failure> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(save_failure(folder))?;
    }
    fs::rename(staging, folder).map_err(save_failure(folder))
}

fn save_failure(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_path_buf();
    move |source| FileError::Save { path, source }.into()
}

pub(crate) fn tokenizer_failure(error: sdtrain_tokenizer::Error) -> Failure {
    let hint = error.hint();
    Failure::new(ExitCode::Model, error.to_string()).maybe_hint(hint)
}

#[cfg(test)]
pub(crate) mod tests {
    use sdtrain_state_dict::{SafetensorsFile, TensorEntry, write};

    use super::*;
    use crate::architecture::{self, Shapes};

    /// A diffusers folder with very small networks, weights of any kind.
    pub(crate) fn write_tiny_folder(folder: &Path) {
        let mut unet = sd1::unet(4);
        unet["block_out_channels"] = json!([32, 64]);
        unet["down_block_types"] = json!(["CrossAttnDownBlock2D", "DownBlock2D"]);
        unet["up_block_types"] = json!(["UpBlock2D", "CrossAttnUpBlock2D"]);
        unet["layers_per_block"] = json!(1);
        unet["cross_attention_dim"] = json!(32);
        let mut vae = sd1::vae();
        vae["block_out_channels"] = json!([32, 32]);
        vae["layers_per_block"] = json!(1);
        let mut text_encoder = sd1::text_encoder();
        for (key, value) in
            [("vocab_size", 300), ("hidden_size", 32), ("intermediate_size", 64), ("num_hidden_layers", 2)]
        {
            text_encoder[key] = json!(value);
        }
        let tokenizer = ClipTokenizer::from_words(&["red", "bottle"], 77);
        let weights = tempfile::tempdir().expect("a temporary folder");
        let parts = [
            ("unet", architecture::unet(&unet)),
            ("vae", architecture::vae(&vae)),
            ("text_encoder", architecture::text_encoder(&text_encoder)),
        ]
        .map(|(name, shapes)| {
            let path = weights.path().join(name);
            write_weights(&path, &shapes.expect("complete"));
            SafetensorsFile::open(&path).expect("it was just written")
        });
        let configs = Configs { unet, vae, text_encoder, scheduler: sd1::scheduler(), tokenizer };
        write_folder(folder, &configs, [&parts[0], &parts[1], &parts[2]]).expect("a writable folder");
    }

    fn write_weights(path: &Path, shapes: &Shapes) {
        let tensors: Vec<TensorEntry> = shapes
            .iter()
            .enumerate()
            .map(|(index, (name, shape))| {
                let count: usize = shape.iter().product();
                let bytes = (0..count).flat_map(|at| ((at + index) as f32).to_le_bytes()).collect();
                TensorEntry { name: name.clone(), dtype: sdtrain_state_dict::Dtype::F32, shape: shape.clone(), bytes }
            })
            .collect();
        write(path, &tensors, &BTreeMap::new()).expect("a writable folder");
    }

    /// Every file below a folder with its content.
    fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => all.extend(files(&path)),
                path => drop(all.insert(path.clone(), fs::read(&path).expect("a file"))),
            }
        }
        all
    }

    #[test]
    fn a_folder_becomes_one_file_and_the_same_folder_again() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (before, single, after) =
            (place.path().join("before"), place.path().join("single.safetensors"), place.path().join("after"));
        write_tiny_folder(&before);
        to_single_file(&before, &single).expect("a complete folder");
        to_folder(Arc::new(SafetensorsFile::open(&single).expect("it was just written")), &after)
            .expect("it carries its configurations");
        let relative = |folder: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
            let strip = |(path, content): (PathBuf, Vec<u8>)| {
                (path.strip_prefix(folder).expect("it lies in the folder").to_path_buf(), content)
            };
            files(folder).into_iter().map(strip).collect()
        };
        let (before, after) = (relative(&before), relative(&after));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (path, content) in &before {
            assert!(after[path] == *content, "{} differs", path.display());
        }
    }

    #[test]
    fn a_folder_that_is_something_else_is_not_replaced() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (folder, single) = (place.path().join("folder"), place.path().join("single.safetensors"));
        write_tiny_folder(&folder);
        to_single_file(&folder, &single).expect("a complete folder");
        let photos = place.path().join("photos");
        fs::create_dir(&photos).expect("a new folder");
        fs::write(photos.join("holiday.jpg"), "x").expect("a new file");
        let failure = to_folder(Arc::new(SafetensorsFile::open(&single).expect("written")), &photos)
            .expect_err("photos are no model");
        assert_eq!(failure.code, ExitCode::Configuration);
        assert!(photos.join("holiday.jpg").exists());
    }

    #[test]
    fn a_small_file_without_configurations_is_refused() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (folder, single) = (place.path().join("folder"), place.path().join("single.safetensors"));
        write_tiny_folder(&folder);
        to_single_file(&folder, &single).expect("a complete folder");
        let bare = place.path().join("bare.safetensors");
        let file = SafetensorsFile::open(&single).expect("written");
        write_source(&bare, &FromReader(&file), &BTreeMap::new()).expect("a writable folder");
        let failure = to_folder(Arc::new(SafetensorsFile::open(&bare).expect("written")), &place.path().join("out"))
            .expect_err("nobody could know its sizes");
        assert!(failure.problems.to_string().contains("has other sizes than SD1 and carries no configuration"));
        assert!(!place.path().join("out").exists() && !place.path().join(".out.partial").exists());
    }
}
