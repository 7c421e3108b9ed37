//! Which files a run was made from: their hashes, for `run.json`, computed beside the first steps.

use crate::run_folder::record_in;
use sdtrain_recipe::{ModelLocation, TrainConfig, local_path};
use sdtrain_run_log::InputFile;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

/// Files being hashed.
pub(crate) struct Inputs {
    thread: Option<JoinHandle<Vec<InputFile>>>,
}

impl Inputs {
    /// Starts on the configuration's model, VAE, text encoder, network of LPIPS, first adapter, fused adapters and first words.
    pub fn hash(config: &TrainConfig) -> Inputs {
        let mut files = Vec::new();
        if let Ok(ModelLocation::Path(model)) = ModelLocation::find(&config.model.path) {
            weights_below(&model, &mut files);
        }
        let fused = config.model.fuse.iter().map(|fused| &fused.path);
        let words = config.learned_tokens().iter().filter_map(|token| token.initial.as_ref());
        for path in config
            .model
            .vae
            .iter()
            .chain(&config.model.text_encoder)
            .chain(&config.vae_objective.lpips)
            .chain(&config.lora.initial)
            .chain(fused)
            .chain(words)
        {
            // One that is not there fails the run elsewhere.
            if let Ok(path) = local_path(path) {
                weights_below(&path, &mut files);
            }
        }
        let built_in = config.model.path.strip_prefix("builtin:").map(str::to_string);
        let work = move || {
            let content = built_in.and_then(|name| Some((sdtrain_model::builtin_bytes(&name)?, name)));
            let embedded = content.map(|(content, name)| InputFile::embedded(&format!("builtin:{name}"), content));
            // A file that cannot be read any more fails the run elsewhere, or was not needed.
            embedded.into_iter().chain(files.iter().filter_map(|path| InputFile::of(path).ok())).collect()
        };
        Inputs { thread: thread::Builder::new().name("hash-inputs".into()).spawn(work).ok() }
    }

    /// The hashes, once; waits for those that are not ready.
    pub fn take(&mut self) -> Vec<InputFile> {
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

/// Whether the run that left its record in `folder` began with other content at `path`, a file or a folder of weights, than lies there
/// now. What cannot be read is not held against it.
pub fn is_from_another(path: &Path, folder: &Path) -> bool {
    let record = record_in(folder);
    let inputs = record.as_ref().and_then(|record| record["inputs"].as_array());
    let mut files = Vec::new();
    weights_below(path, &mut files);
    files.iter().any(|file| {
        let is_it = |input: &&serde_json::Value| input["path"].as_str().map(Path::new) == Some(file);
        let then = inputs.and_then(|inputs| inputs.iter().find(is_it)?["blake3"].as_str());
        then.is_some_and(|then| InputFile::of(file).is_ok_and(|now| now.blake3 != then))
    })
}

/// The file itself, or all files of weights in a folder and the folders of its networks, in order.
fn weights_below(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_path_buf());
        return;
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            weights_below(&entry, files);
        } else if entry.extension().is_some_and(|ending| ending == "safetensors" || ending == "bin") {
            files.push(entry);
        }
    }
}
