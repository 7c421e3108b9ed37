//! Fetching from a hub on this machine.

mod cache;
mod failures;
mod selection;
mod server;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use sdtrain_hub::{Error, Prepared, Progress, Settings, Wanted, fetch, prepare};
use sdtrain_recipe::HubName;

/// A model of all kinds of files, of which less than half is needed.
pub(crate) const MODEL: [(&str, &str); 22] = [
    (
        "model_index.json",
        r#"{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}"#,
    ),
    ("README.md", "# A model"),
    ("v1-5-pruned.ckpt", "pickle"),
    ("v1-5-pruned.safetensors", "weights"),
    ("feature_extractor/preprocessor_config.json", "{}"),
    ("safety_checker/config.json", "{}"),
    ("safety_checker/model.safetensors", "weights"),
    ("scheduler/scheduler_config.json", r#"{"_class_name": "PNDMScheduler"}"#),
    ("text_encoder/config.json", r#"{"hidden_size": 32}"#),
    ("text_encoder/flax_model.msgpack", "flax"),
    ("text_encoder/model.safetensors", "@1200"),
    ("text_encoder/pytorch_model.bin", "pickle"),
    ("tokenizer/merges.txt", "a b"),
    ("tokenizer/special_tokens_map.json", "{}"),
    ("tokenizer/vocab.json", "{\"a\": 0}"),
    ("unet/config.json", r#"{"sample_size": 8}"#),
    ("unet/diffusion_pytorch_model.bin", "pickle"),
    ("unet/diffusion_pytorch_model.fp16.safetensors", "@1500"),
    ("unet/diffusion_pytorch_model.safetensors", "@300000"),
    ("unet/model.onnx", "onnx"),
    ("vae/config.json", r#"{"latent_channels": 4}"#),
    ("vae/diffusion_pytorch_model.safetensors", "@2000"),
];

/// `@LENGTH` stands for so many bytes.
pub(crate) fn bytes_of(text: &str) -> Vec<u8> {
    match text.strip_prefix('@') {
        Some(length) => server::content(length.parse().unwrap(), length.len() as u32),
        None => text.as_bytes().to_vec(),
    }
}

/// A hub with [`MODEL`] and an empty cache.
pub(crate) fn hub() -> (server::Server, tempfile::TempDir) {
    let files: Vec<(&str, Vec<u8>)> = MODEL.iter().map(|(name, text)| (*name, bytes_of(text))).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    (server::Server::start(&files), tempfile::tempdir().unwrap())
}

pub(crate) fn model() -> Wanted {
    Wanted::Model { variant: None, weights: true }
}

pub(crate) fn name(text: &str) -> HubName {
    HubName::parse(text).unwrap_or_else(|(message, _)| panic!("{message}"))
}

/// All that is told of a fetch.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) begun: RefCell<Vec<(usize, u64)>>,
    pub(crate) at: RefCell<Vec<u64>>,
}

impl Progress for Told {
    fn begin(&self, files: usize, bytes: u64) {
        self.begun.borrow_mut().push((files, bytes));
    }
    fn at(&self, bytes: u64) {
        self.at.borrow_mut().push(bytes);
    }
    fn note(&self, _: &str) {}
}

pub(crate) fn get(text: &str, wanted: &Wanted, settings: &Settings) -> Result<(PathBuf, Prepared), Error> {
    let name = name(text);
    let prepared = prepare(&name, wanted, settings)?;
    Ok((fetch(&name, &prepared, settings, &Told::default())?, prepared))
}

/// Names of all files below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            match entry.path().is_dir() {
                true => walk(&entry.path(), &format!("{name}/"), found),
                false => found.push(name),
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    found
}
