//! A whole diffusers folder on disk, and the same configurations inside the metadata of a single file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::family::Family;
use crate::maps::text_places::{FOLDERS, TextFolder};
use crate::recognise::UnetInput;
use crate::staging::{self, Staging};
use crate::write::{TensorSource, write_source};

/// The parsed configuration files of a Stable Diffusion pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineConfigs {
    /// `unet/config.json`.
    pub unet: Json,
    /// `vae/config.json`.
    pub vae: Json,
    /// `text_encoder/config.json`, and `text_encoder_2/config.json` of families with two.
    pub text_encoders: Vec<Json>,
    /// `scheduler/scheduler_config.json`.
    pub scheduler: Json,
    /// Where there is no negative prompt, zeros stand for what a text encoder makes of an empty one (`force_zeros_for_empty_prompt` of
    /// `model_index.json`).
    pub zeros_for_empty_prompt: bool,
}

/// The weights of a Stable Diffusion pipeline, each under diffusers' names.
pub struct PipelineWeights<'w> {
    /// The UNet's.
    pub unet: &'w dyn TensorSource,
    /// The VAE's.
    pub vae: &'w dyn TensorSource,
    /// Those of each text encoder.
    pub text_encoders: Vec<&'w dyn TensorSource>,
}

/// The files of a tokenizer, by name.
pub type TokenizerFiles = Vec<(String, Vec<u8>)>;

pub(crate) const UNET: &str = "sdtrain.unet";
const VAE: &str = "sdtrain.vae";
const TEXT_ENCODERS: [&str; 2] = ["sdtrain.text_encoder", "sdtrain.text_encoder_2"];
const SCHEDULER: &str = "sdtrain.scheduler";
const ZEROS: &str = "sdtrain.force_zeros_for_empty_prompt";
/// The files of a CLIP tokenizer, and where their text is.
const CLIP_TOKENIZER: [(&str, &str); 2] =
    [("vocab.json", "sdtrain.tokenizer.vocab"), ("merges.txt", "sdtrain.tokenizer.merges")];
/// All files of a tokenizer that is not CLIP's, as a JSON object of names and base64.
const TOKENIZER_FILES: &str = "sdtrain.tokenizer.files";

impl PipelineConfigs {
    /// From the files of a diffusers folder of `family`.
    ///
    /// # Errors
    /// Where one is not there or no JSON.
    pub fn of_folder(folder: &Path, family: Family) -> Result<PipelineConfigs> {
        let index = read_json(&folder.join("model_index.json"))?;
        let read = |part: &str| read_json(&folder.join(part).join("config.json"));
        let text_encoders = family.text_folders().iter().map(|place| read(place.network)).collect::<Result<_>>()?;
        let assumed = PipelineConfigs::released(family, false).zeros_for_empty_prompt;
        Ok(PipelineConfigs {
            unet: read("unet")?,
            vae: read("vae")?,
            text_encoders,
            scheduler: read_json(&folder.join("scheduler/scheduler_config.json"))?,
            zeros_for_empty_prompt: index["force_zeros_for_empty_prompt"].as_bool().unwrap_or(assumed),
        })
    }

    /// Metadata for a single file whose reader could not know these configurations otherwise. Of a CLIP tokenizer only `vocab.json` and
    /// `merges.txt` are kept, which all text encoders share; of another all files.
    pub fn to_metadata(&self, tokenizer: &TokenizerFiles) -> BTreeMap<String, String> {
        let configs = [(UNET, &self.unet), (VAE, &self.vae), (SCHEDULER, &self.scheduler)];
        let configs = configs.into_iter().chain(TEXT_ENCODERS.into_iter().zip(&self.text_encoders));
        let mut metadata: BTreeMap<String, String> =
            configs.map(|(key, config)| (key.to_string(), config.to_string())).collect();
        if self.zeros_for_empty_prompt {
            metadata.insert(ZEROS.to_string(), "true".to_string());
        }
        let of_clip = CLIP_TOKENIZER.map(|(wanted, key)| {
            let (_, content) = tokenizer.iter().find(|(name, _)| name == wanted)?;
            Some((key.to_string(), String::from_utf8_lossy(content).into_owned()))
        });
        match of_clip {
            [Some(vocab), Some(merges)] => metadata.extend([vocab, merges]),
            _ => {
                let files: BTreeMap<&str, String> =
                    tokenizer.iter().map(|(name, content)| (name.as_str(), BASE64.encode(content))).collect();
                metadata.insert(TOKENIZER_FILES.to_string(), json!(files).to_string());
            }
        }
        metadata
    }

    /// What [`PipelineConfigs::to_metadata`] wrote into the file at `path`, if it is such a file: the configurations, and the files of the
    /// tokenizer.
    pub fn from_metadata(
        path: &Path,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Option<(PipelineConfigs, TokenizerFiles)>> {
        if !metadata.contains_key(UNET) {
            return Ok(None);
        }
        let broken = |reason: String| Error::WrongKind { path: path.to_path_buf(), reason };
        let lacks = |key: &str| broken(format!("says `{UNET}` in its metadata but not `{key}`"));
        let parsed = |key: &str| -> Result<Json> { json_in_metadata(path, metadata, key)?.ok_or_else(|| lacks(key)) };
        let mut text_encoders = vec![parsed(TEXT_ENCODERS[0])?];
        if metadata.contains_key(TEXT_ENCODERS[1]) {
            text_encoders.push(parsed(TEXT_ENCODERS[1])?);
        }
        let configs = PipelineConfigs {
            unet: parsed(UNET)?,
            vae: parsed(VAE)?,
            text_encoders,
            scheduler: parsed(SCHEDULER)?,
            zeros_for_empty_prompt: metadata.get(ZEROS).is_some_and(|said| said == "true"),
        };
        if !metadata.contains_key(TOKENIZER_FILES) {
            let file = |(name, key): (&str, &str)| {
                Ok((name.to_string(), metadata.get(key).ok_or_else(|| lacks(key))?.clone().into_bytes()))
            };
            return Ok(Some((configs, CLIP_TOKENIZER.into_iter().map(file).collect::<Result<_>>()?)));
        }
        let encoded: BTreeMap<String, String> = serde_json::from_value(parsed(TOKENIZER_FILES)?)
            .map_err(|error| broken(format!("has broken metadata `{TOKENIZER_FILES}`: {error}")))?;
        let decoded = encoded.into_iter().map(|(name, content)| match BASE64.decode(content) {
            Ok(content) => Ok((name, content)),
            Err(error) => Err(broken(format!("has broken metadata `{TOKENIZER_FILES}`, `{name}`: {error}"))),
        });
        Ok(Some((configs, decoded.collect::<Result<_>>()?)))
    }
}

/// The `config.json` of a VAE as metadata of a file that holds it, for readers that could not know it otherwise.
pub fn vae_to_metadata(config: &Json) -> (String, String) {
    (VAE.to_string(), config.to_string())
}

/// The `config.json` of the VAE in the file at `path`, where [`PipelineConfigs::to_metadata`] or [`vae_to_metadata`] wrote it.
///
/// # Errors
/// Where it is there and no JSON.
pub fn vae_from_metadata(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Option<Json>> {
    json_in_metadata(path, metadata, VAE)
}

/// What the metadata of the file at `path` say under `key`, where they say anything.
///
/// # Errors
/// Where that is no JSON.
pub(crate) fn json_in_metadata(path: &Path, metadata: &BTreeMap<String, String>, key: &str) -> Result<Option<Json>> {
    let parsed = metadata.get(key).map(|text| serde_json::from_str(text)).transpose();
    parsed.map_err(|error| Error::WrongKind {
        path: path.to_path_buf(),
        reason: format!("has broken metadata `{key}`: {error}"),
    })
}

/// A parsed JSON file of a model folder.
pub fn read_json(path: &Path) -> Result<Json> {
    let parsed = fs::read(path).and_then(|text| serde_json::from_slice(&text).map_err(std::io::Error::other));
    parsed.map_err(|source| Error::io("read", path, source))
}

/// Writes a folder that the `from_pretrained` of the family's pipeline loads, with a tokenizer for each text encoder. `metadata` joins the
/// header of each file of weights.
///
/// Everything appears in a folder beside it first and is on the disk before that takes the name, in one step where the system
/// can; on any error it is removed and what was at `folder` is still there. A folder that exists is replaced only when it holds
/// nothing but what this function writes.
pub fn write_diffusers_folder(
    folder: &Path,
    family: Family,
    configs: &PipelineConfigs,
    tokenizers: &[TokenizerFiles],
    weights: &PipelineWeights,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let class = configs.scheduler["_class_name"].as_str().unwrap_or("PNDMScheduler");
    let input = UnetInput::of_config(&configs.unet);
    let mut index = json!({
        "_class_name": family.pipeline_class(input),
        "_diffusers_version": "0.42.0",
        "feature_extractor": [null, null],
        "scheduler": ["diffusers", class],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    if family.pipeline_class(input).contains("XL") {
        index["image_encoder"] = json!([null, null]);
        index["force_zeros_for_empty_prompt"] = json!(configs.zeros_for_empty_prompt);
        // What it has none of is said to be nothing.
        FOLDERS
            .iter()
            .flat_map(|place| [place.network, place.tokenizer])
            .for_each(|part| index[part] = json!([null, null]));
    } else {
        index["safety_checker"] = json!([null, null]);
        index["requires_safety_checker"] = json!(false);
    }
    if family.requires_aesthetics_score() {
        index["requires_aesthetics_score"] = json!(true);
    }
    let mut jsons = vec![
        ("unet/config.json".to_string(), &configs.unet),
        ("vae/config.json".to_string(), &configs.vae),
        ("scheduler/scheduler_config.json".to_string(), &configs.scheduler),
    ];
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut tensors = vec![
        ("unet/diffusion_pytorch_model.safetensors".to_string(), weights.unet),
        ("vae/diffusion_pytorch_model.safetensors".to_string(), weights.vae),
    ];
    for (number, TextFolder { network, tokenizer }) in family.text_folders().iter().enumerate() {
        let config = &configs.text_encoders[number];
        let class = config["architectures"][0].as_str().unwrap_or("CLIPTextModel");
        index[network] = json!(["transformers", class]);
        index[tokenizer] = json!(["transformers", tokenizer_class(&tokenizers[number])]);
        jsons.push((format!("{network}/config.json"), config));
        tensors.push((format!("{network}/model.safetensors"), weights.text_encoders[number]));
        files.extend(tokenizers[number].iter().map(|(name, content)| (format!("{tokenizer}/{name}"), content.clone())));
    }
    jsons.push(("model_index.json".to_string(), &index));
    files.extend(jsons.into_iter().map(|(name, json)| (name, format!("{json:#}\n").into_bytes())));
    write_folder(folder, &files, &tensors, metadata)
}

/// Whether a text encoder's `config.json` is BERT's; it is CLIP's otherwise.
pub fn is_bert(config: &Json) -> bool {
    config["architectures"][0] == "BertModel" || config["model_type"] == "bert"
}

/// How many tokens a text encoder with this `config.json` has positions for; what transformers assumes where it does not say.
pub fn text_positions(config: &Json) -> usize {
    let assumed = if is_bert(config) { 512 } else { 77 };
    config["max_position_embeddings"].as_u64().map_or(assumed, |positions| positions as usize)
}

/// transformers' class for a tokenizer with these files.
fn tokenizer_class(files: &TokenizerFiles) -> String {
    let config = files.iter().find(|(name, _)| name == "tokenizer_config.json");
    let config = config.and_then(|(_, content)| serde_json::from_slice::<Json>(content).ok());
    let class = config.as_ref().and_then(|config| config["tokenizer_class"].as_str());
    // Old configurations do not say it.
    let has = |name: &str| files.iter().any(|(own, _)| own == name);
    let by_file = match () {
        _ if has("vocab.txt") => "BertTokenizer",
        _ if has("spiece.model") => "T5Tokenizer",
        _ => "CLIPTokenizer",
    };
    class.unwrap_or(by_file).to_string()
}

/// Writes a folder of a single network that the `from_pretrained` of its class loads, `AutoencoderKL` or `ControlNetModel`, in the same way
/// as [`write_diffusers_folder`].
pub fn write_network_folder(
    folder: &Path,
    config: &Json,
    network: &dyn TensorSource,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let files = [("config.json".to_string(), format!("{config:#}\n").into_bytes())];
    write_folder(folder, &files, &[("diffusion_pytorch_model.safetensors".to_string(), network)], metadata)
}

/// Writes `files` and `weights`, by their names in it, in place of what is at `folder`.
fn write_folder(
    folder: &Path,
    files: &[(String, Vec<u8>)],
    weights: &[(String, &dyn TensorSource)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    staging::put_back(folder)?;
    let names = files.iter().map(|(name, _)| name.as_str()).chain(weights.iter().map(|(name, _)| name.as_str()));
    check_replaceable(folder, &names.map(PathBuf::from).collect::<Vec<_>>())?;

    let staging = Staging::beside(folder)?;
    let saved = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Save { path, source }
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, TensorEntry};

    fn configs() -> PipelineConfigs {
        let config = |name: &str| json!({ "_class_name": name });
        PipelineConfigs {
            unet: config("unet"),
            vae: config("vae"),
            text_encoders: vec![config("text"), config("text 2")],
            scheduler: config("DDIMScheduler"),
            zeros_for_empty_prompt: true,
        }
    }

    fn write(folder: &Path, value: u8) -> Result<()> {
        let tensors = [TensorEntry { name: "a".into(), dtype: Dtype::U8, shape: vec![1], bytes: vec![value] }];
        let source: &dyn TensorSource = &Entries(tensors.to_vec());
        let tokenizers = [0, 1].map(|_| vec![("vocab.json".into(), b"{}".to_vec())]);
        let metadata = BTreeMap::from([("ss_steps".to_string(), value.to_string())]);
        let weights = PipelineWeights { unet: source, vae: source, text_encoders: vec![source; 2] };
        write_diffusers_folder(folder, Family::Sdxl, &configs(), &tokenizers, &weights, &metadata)
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

    /// Tensors that look at the folder which is about to be replaced whenever they are asked for.
    struct Watching<'a>(&'a Path);

    impl TensorSource for Watching<'_> {
        fn list(&self) -> Vec<(String, crate::TensorInfo)> {
            vec![("a".to_string(), crate::TensorInfo { dtype: Dtype::U8, shape: vec![1] })]
        }

        fn tensor_bytes(&self, _: &str) -> Result<std::borrow::Cow<'_, [u8]>> {
            assert!(read_json(&self.0.join("config.json")).unwrap()["old"].as_bool().unwrap());
            assert!(self.0.join("diffusion_pytorch_model.safetensors").is_file());
            Ok(vec![2].into())
        }
    }

    #[test]
    fn the_old_folder_can_be_read_while_the_new_one_is_written_and_after_a_kill_between_them() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("vae");
        let write_old = || {
            let tensors = [TensorEntry { name: "a".into(), dtype: Dtype::U8, shape: vec![1], bytes: vec![1] }];
            write_network_folder(&folder, &json!({"old": true}), &Entries(tensors.to_vec()), &BTreeMap::new()).unwrap();
        };
        for killed in [false, true] {
            write_old();
            if killed {
                // As the two renames of a system that cannot exchange leave it.
                fs::rename(&folder, scratch.path().join(".vae.replaced")).unwrap();
            }
            write_network_folder(&folder, &json!({"old": false}), &Watching(&folder), &BTreeMap::new()).unwrap();
            let weights = fs::read(folder.join("diffusion_pytorch_model.safetensors")).unwrap();
            assert_eq!(weights.last(), Some(&2));
            assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing else stays");
        }
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
        assert_eq!(read(&metadata).unwrap(), Some((configs(), tokenizer)));
        let vae_of = |metadata: &BTreeMap<String, String>| vae_from_metadata(Path::new("f"), metadata);
        assert_eq!(vae_of(&metadata).unwrap(), Some(configs().vae));
        assert_eq!(vae_of(&BTreeMap::from([vae_to_metadata(&configs().vae)])).unwrap(), Some(configs().vae));
        let broken = BTreeMap::from([(VAE.to_string(), "{".to_string())]);
        assert!(vae_of(&broken).unwrap_err().to_string().contains("`f` has broken metadata `sdtrain.vae`"));
        metadata.remove(VAE);
        assert_eq!(vae_of(&metadata).unwrap(), None);
        assert!(read(&metadata).unwrap_err().to_string().contains("`sdtrain.vae`"));
        assert_eq!(read(&BTreeMap::new()).unwrap(), None);
        // Another tokenizer's files are bytes of any kind.
        let files =
            vec![("spiece.model".to_string(), vec![0, 255, 10]), ("tokenizer_config.json".to_string(), b"{}".to_vec())];
        let mut metadata = configs().to_metadata(&files);
        assert_eq!(read(&metadata).unwrap(), Some((configs(), files)));
        metadata.insert(TOKENIZER_FILES.to_string(), r#"{"spiece.model": "?"}"#.to_string());
        assert!(read(&metadata).unwrap_err().to_string().contains("`spiece.model`"));
    }
}
