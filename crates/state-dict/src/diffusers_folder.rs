//! A whole diffusers folder on disk, and the same configurations inside the metadata of a single file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::write::{TensorSource, hidden_beside, sync_parent, write_source};

/// The parsed configuration files of a Stable Diffusion pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineConfigs {
    /// `unet/config.json`.
    pub unet: Json,
    /// `vae/config.json`.
    pub vae: Json,
    /// `text_encoder/config.json`.
    pub text_encoder: Json,
    /// `scheduler/scheduler_config.json`.
    pub scheduler: Json,
}

/// The files of a tokenizer, by name.
pub type TokenizerFiles = Vec<(String, Vec<u8>)>;

const UNET: &str = "sdtrain.unet";
const VAE: &str = "sdtrain.vae";
const TEXT_ENCODER: &str = "sdtrain.text_encoder";
const SCHEDULER: &str = "sdtrain.scheduler";
const VOCAB: &str = "sdtrain.tokenizer.vocab";
const MERGES: &str = "sdtrain.tokenizer.merges";

impl PipelineConfigs {
    /// Metadata for a single file whose reader could not know these configurations otherwise. Only a CLIP tokenizer's
    /// `vocab.json` and `merges.txt` are kept.
    pub fn to_metadata(&self, tokenizer: &TokenizerFiles) -> BTreeMap<String, String> {
        let configs =
            [(UNET, &self.unet), (VAE, &self.vae), (TEXT_ENCODER, &self.text_encoder), (SCHEDULER, &self.scheduler)];
        let mut metadata: BTreeMap<String, String> =
            configs.into_iter().map(|(key, config)| (key.to_string(), config.to_string())).collect();
        for (name, content) in tokenizer {
            let key = match name.as_str() {
                "vocab.json" => VOCAB,
                "merges.txt" => MERGES,
                _ => continue,
            };
            metadata.insert(key.to_string(), String::from_utf8_lossy(content).into_owned());
        }
        metadata
    }

    /// What [`PipelineConfigs::to_metadata`] wrote into the file at `path`, if it is such a file: the configurations, and
    /// `vocab.json` and `merges.txt`.
    pub fn from_metadata(
        path: &Path,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Option<(PipelineConfigs, [String; 2])>> {
        if !metadata.contains_key(UNET) {
            return Ok(None);
        }
        let broken = |reason: String| Error::WrongKind { path: path.to_path_buf(), reason };
        let text = |key: &str| {
            metadata.get(key).ok_or_else(|| broken(format!("says `{UNET}` in its metadata but not `{key}`")))
        };
        let parsed = |key: &str| -> Result<Json> {
            serde_json::from_str(text(key)?).map_err(|error| broken(format!("has broken metadata `{key}`: {error}")))
        };
        let configs = PipelineConfigs {
            unet: parsed(UNET)?,
            vae: parsed(VAE)?,
            text_encoder: parsed(TEXT_ENCODER)?,
            scheduler: parsed(SCHEDULER)?,
        };
        Ok(Some((configs, [text(VOCAB)?.clone(), text(MERGES)?.clone()])))
    }
}

/// A parsed JSON file of a model folder.
pub fn read_json(path: &Path) -> Result<Json> {
    let parsed = fs::read(path).and_then(|text| serde_json::from_slice(&text).map_err(std::io::Error::other));
    parsed.map_err(|source| Error::io("read", path, source))
}

/// Writes a folder that `StableDiffusionPipeline.from_pretrained` loads, with the weights of UNet, VAE and text encoder.
/// `metadata` joins the header of each file of weights.
///
/// Everything appears in a folder beside it first and is on the disk before that takes the name; on any error it is removed
/// and what was at `folder` is still there. A folder that exists is replaced only when it holds nothing but what this
/// function writes.
pub fn write_diffusers_folder(
    folder: &Path,
    configs: &PipelineConfigs,
    tokenizer: &TokenizerFiles,
    [unet, vae, text_encoder]: [&dyn TensorSource; 3],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let class = configs.scheduler["_class_name"].as_str().unwrap_or("PNDMScheduler");
    let index = json!({
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "feature_extractor": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "scheduler": ["diffusers", class],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    let jsons = [
        ("model_index.json", &index),
        ("unet/config.json", &configs.unet),
        ("vae/config.json", &configs.vae),
        ("text_encoder/config.json", &configs.text_encoder),
        ("scheduler/scheduler_config.json", &configs.scheduler),
    ];
    let mut files: Vec<(String, Vec<u8>)> =
        jsons.into_iter().map(|(name, json)| (name.to_string(), format!("{json:#}\n").into_bytes())).collect();
    files.extend(tokenizer.iter().map(|(name, content)| (format!("tokenizer/{name}"), content.clone())));
    let weights = [
        ("unet/diffusion_pytorch_model.safetensors", unet),
        ("vae/diffusion_pytorch_model.safetensors", vae),
        ("text_encoder/model.safetensors", text_encoder),
    ];
    write_folder(folder, &files, &weights, metadata)
}

/// Writes a folder that `AutoencoderKL.from_pretrained` loads, in the same way as [`write_diffusers_folder`].
pub fn write_vae_folder(
    folder: &Path,
    config: &Json,
    vae: &dyn TensorSource,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let files = [("config.json".to_string(), format!("{config:#}\n").into_bytes())];
    write_folder(folder, &files, &[("diffusion_pytorch_model.safetensors", vae)], metadata)
}

/// Writes `files` and `weights`, by their names in it, in place of what is at `folder`.
fn write_folder(
    folder: &Path,
    files: &[(String, Vec<u8>)],
    weights: &[(&str, &dyn TensorSource)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let names = files.iter().map(|(name, _)| name.as_str()).chain(weights.iter().map(|(name, _)| *name));
    check_replaceable(folder, &names.map(PathBuf::from).collect::<Vec<_>>())?;

    let staging = Staging::beside(folder)?;
    let saved = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Save { path, source }
    };
    fs::create_dir_all(&staging.path).map_err(saved(&staging.path))?;
    for (name, content) in files {
        let path = staging.path.join(name);
        let parent = path.parent().expect("it lies in the staging folder");
        fs::create_dir_all(parent).map_err(saved(parent))?;
        let mut file = File::create(&path).map_err(saved(&path))?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(saved(&path))?;
    }
    let mut metadata = metadata.clone();
    // Without it transformers refuses the file.
    metadata.insert("format".to_string(), "pt".to_string());
    for (name, tensors) in weights {
        write_source(&staging.path.join(name), *tensors, &metadata)?;
    }
    staging.publish(folder)
}

/// That nothing of anybody else is lost when `folder` is replaced by one with the files `ours`.
fn check_replaceable(folder: &Path, ours: &[PathBuf]) -> Result<()> {
    let refused = |reason: &str| {
        let source = std::io::Error::new(std::io::ErrorKind::AlreadyExists, reason.to_string());
        Err(Error::Save { path: folder.to_path_buf(), source })
    };
    if !folder.exists() {
        return Ok(());
    }
    if !folder.is_dir() {
        return refused("a file has this name");
    }
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let path = folder.join(&below);
        for entry in fs::read_dir(&path).map_err(|source| Error::io("list", &path, source))?.flatten() {
            let name = below.join(entry.file_name());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && ours.iter().any(|own| own.starts_with(&name)) {
                folders.push(name);
            } else if !ours.contains(&name) {
                return refused(&format!("it holds `{}`, which would be lost", name.display()));
            }
        }
    }
    Ok(())
}

/// A folder beside its final place that removes itself unless it is published.
struct Staging {
    path: PathBuf,
}

impl Staging {
    fn beside(folder: &Path) -> Result<Staging> {
        let staging = Staging { path: hidden_beside(folder, "partial") };
        // What a killed run left.
        staging.remove().map_err(|source| Error::Save { path: staging.path.clone(), source })?;
        Ok(staging)
    }

    fn remove(&self) -> std::io::Result<()> {
        if self.path.exists() { fs::remove_dir_all(&self.path) } else { Ok(()) }
    }

    /// The old folder keeps its content under another name until the new one has its place.
    fn publish(self, folder: &Path) -> Result<()> {
        let save = |source| Error::Save { path: folder.to_path_buf(), source };
        let old = hidden_beside(folder, "replaced");
        if old.exists() {
            fs::remove_dir_all(&old).map_err(save)?;
        }
        if folder.exists() {
            fs::rename(folder, &old).map_err(save)?;
        }
        if let Err(source) = fs::rename(&self.path, folder) {
            if old.exists() {
                fs::rename(&old, folder).map_err(save)?;
            }
            return Err(save(source));
        }
        sync_parent(folder).map_err(save)?;
        if old.exists() {
            fs::remove_dir_all(&old).map_err(save)?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `publish` there is nothing left to remove.
        let _ = self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, TensorEntry};

    fn configs() -> PipelineConfigs {
        let config = |name: &str| json!({ "_class_name": name });
        PipelineConfigs {
            unet: config("unet"),
            vae: config("vae"),
            text_encoder: config("text"),
            scheduler: config("DDIMScheduler"),
        }
    }

    fn write(folder: &Path, value: u8) -> Result<()> {
        let tensors = [TensorEntry { name: "a".into(), dtype: Dtype::U8, shape: vec![1], bytes: vec![value] }];
        let source: &dyn TensorSource = &Entries(tensors.to_vec());
        let tokenizer = vec![("vocab.json".into(), b"{}".to_vec())];
        let metadata = BTreeMap::from([("ss_steps".to_string(), value.to_string())]);
        write_diffusers_folder(folder, &configs(), &tokenizer, [source; 3], &metadata)
    }

    struct Entries(Vec<TensorEntry>);

    impl TensorSource for Entries {
        fn list(&self) -> Vec<(String, crate::TensorInfo)> {
            self.0.as_slice().list()
        }

        fn tensor_bytes(&self, name: &str) -> Result<std::borrow::Cow<'_, [u8]>> {
            self.0.as_slice().tensor_bytes(name)
        }
    }

    #[test]
    fn a_folder_is_replaced_whole_and_nothing_else_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("model");
        write(&folder, 1).unwrap();
        write(&folder, 2).unwrap();
        let weights = fs::read(folder.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
        assert_eq!(weights.last(), Some(&2));
        let header = String::from_utf8_lossy(&weights);
        assert!(header.contains(r#""ss_steps":"2""#) && header.contains(r#""format":"pt""#), "{header}");
        assert!(fs::read_to_string(folder.join("model_index.json")).unwrap().contains("DDIMScheduler"));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_with_somebody_elses_file_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("model");
        write(&folder, 1).unwrap();
        for other in ["notes.txt", "unet/model.ckpt", "loras/a.safetensors"] {
            let path = folder.join(other);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, b"mine").unwrap();
            let message = write(&folder, 2).unwrap_err().to_string();
            assert!(message.contains("which would be lost"), "{message}");
            assert_eq!(fs::read(&path).unwrap(), b"mine");
            fs::remove_file(&path).unwrap();
            let _ = fs::remove_dir(folder.join("loras"));
        }
        write(&folder, 2).unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "no staging folder stays");
    }

    #[test]
    fn configurations_come_back_from_metadata() {
        let tokenizer = vec![("vocab.json".to_string(), b"{}".to_vec()), ("merges.txt".to_string(), b"m".to_vec())];
        let mut metadata = configs().to_metadata(&tokenizer);
        let read = |metadata: &BTreeMap<String, String>| PipelineConfigs::from_metadata(Path::new("f"), metadata);
        assert_eq!(read(&metadata).unwrap(), Some((configs(), ["{}".to_string(), "m".to_string()])));
        metadata.remove(VAE);
        assert!(read(&metadata).unwrap_err().to_string().contains("`sdtrain.vae`"));
        assert_eq!(read(&BTreeMap::new()).unwrap(), None);
    }
}
