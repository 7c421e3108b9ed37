//! Which files a run was made from: their hashes, for `run.json`, computed beside the first steps.

use crate::error::Result;
use crate::run_folder::record_in;
use sdtrain_recipe::{ModelLocation, TrainConfig, local_path};
use sdtrain_run_log::{InputFile, Outcome, RunRecord};
use sdtrain_state_dict::component_files;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Files being hashed.
pub(crate) struct Inputs {
    thread: Option<JoinHandle<()>>,
    done: Arc<Mutex<Vec<InputFile>>>,
}

impl Inputs {
    /// Starts on the configuration's model, VAE, text encoder, network of LPIPS, first adapter, fused adapters and first words.
    pub fn hash(config: &TrainConfig) -> Inputs {
        let mut files = Vec::new();
        if let Ok(ModelLocation::Path(model)) = ModelLocation::find(&config.model.path) {
            files.extend(weights_of(&model, config.model.variant.as_deref()));
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
                files.extend(weights_of(&path, None));
            }
        }
        let built_in = config.model.path.strip_prefix("builtin:").map(str::to_string);
        let done = Arc::new(Mutex::new(Vec::new()));
        let list = done.clone();
        let work = move || {
            let add = |file| list.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            let content = built_in.and_then(|name| Some((sdtrain_model::builtin_bytes(&name)?, name)));
            content
                .map(|(content, name)| InputFile::embedded(&format!("builtin:{name}"), content))
                .into_iter()
                .for_each(add);
            // A file that cannot be read any more fails the run elsewhere, or was not needed.
            files.iter().filter_map(|path| InputFile::of(path).ok()).for_each(add);
        };
        Inputs { thread: thread::Builder::new().name("hash-inputs".into()).spawn(work).ok(), done }
    }

    /// Has the record of a run that is over written by `write`: at once with the hashes that are ready, and of a finished run once more with
    /// all. Those of a large base take minutes: a kill meanwhile costs them and no more, as the record says finished. Whoever stopped a run
    /// has better things to do than to wait for gigabytes that are only named there.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn write_into(
        &mut self,
        record: &mut RunRecord,
        mut write: impl FnMut(&mut RunRecord) -> Result<()>,
    ) -> Result<()> {
        record.inputs = self.so_far();
        write(record)?;
        if record.outcome != Outcome::Finished {
            return Ok(());
        }
        let all = self.all();
        if all == record.inputs {
            return Ok(());
        }
        record.inputs = all;
        write(record)
    }

    /// The hashes; waits for those that are not ready.
    fn all(&mut self) -> Vec<InputFile> {
        // One that panicked leaves those that it came to.
        let _ = self.thread.take().map(JoinHandle::join);
        self.so_far()
    }

    /// Those that are ready.
    fn so_far(&self) -> Vec<InputFile> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

/// The file itself, or those files of a folder that training reads; all of its weights, where it is none of a known kind.
fn weights_of(path: &Path, variant: Option<&str>) -> Vec<PathBuf> {
    /// Networks of a diffusers folder, and what their files are called; a folder of one network holds them itself.
    const NETWORKS: [(&str, &str); 6] = [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("text_encoder_2", "model"),
        ("", "diffusion_pytorch_model"),
        ("", "model"),
    ];
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let files_of = |(folder, stem)| component_files(&path.join(folder), stem, variant).ok();
    let mut files: Vec<PathBuf> = NETWORKS.into_iter().filter_map(files_of).flatten().collect();
    if files.is_empty() {
        weights_below(path, &mut files);
    }
    files
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

#[cfg(test)]
mod tests {
    use super::*;
    use sdtrain_run_log::{Device, Program};
    use std::sync::mpsc;
    use std::time::Duration;

    /// What is written of a run that ends in `outcome`, where its only file is hashed no sooner than something is written.
    fn written(outcome: Outcome) -> Vec<(Outcome, usize)> {
        let done = Arc::new(Mutex::new(Vec::new()));
        let (list, (go, wait)) = (done.clone(), mpsc::channel::<()>());
        let slow = thread::spawn(move || {
            let _ = wait.recv_timeout(Duration::from_secs(10));
            list.lock().expect("nobody panics with it").push(InputFile::embedded("builtin:slow", b"weights"));
        });
        let mut inputs = Inputs { thread: Some(slow), done };
        let mut record = RunRecord::begin(Program::default(), Device::default());
        record.end(outcome, 6);
        let mut written = Vec::new();
        let write = |record: &mut RunRecord| {
            written.push((record.outcome, record.inputs.len()));
            if outcome == Outcome::Finished {
                let _ = go.send(());
            }
            Ok(())
        };
        inputs.write_into(&mut record, write).unwrap_or_else(|error| panic!("{error}"));
        written
    }

    /// A kill while a large base is read must not cost the end of a run that has its product and pictures.
    #[test]
    fn a_run_is_finished_before_its_files_are_hashed() {
        assert_eq!(written(Outcome::Finished), [(Outcome::Finished, 0), (Outcome::Finished, 1)]);
        // Nor does who stops it wait for them.
        assert_eq!(written(Outcome::Stopped), [(Outcome::Stopped, 0)]);
    }

    #[test]
    fn of_a_folder_those_files_are_hashed_that_training_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = [
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/pytorch_model.bin",
            "safety_checker/pytorch_model.bin",
            "v1-5-pruned.safetensors",
        ];
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("it is made");
            fs::write(path, file).expect("it is written");
        }
        let read = |variant| {
            let own = |path: PathBuf| path.strip_prefix(folder.path()).expect("below it").display().to_string();
            weights_of(folder.path(), variant).into_iter().map(own).collect::<Vec<_>>()
        };
        assert_eq!(read(None), [files[0], files[3], files[4]]);
        assert_eq!(read(Some("fp16")), [files[1]]);
        assert_eq!(weights_of(&folder.path().join("vae"), None).len(), 1);
        assert_eq!(weights_of(&folder.path().join(files[5]), None), [folder.path().join(files[5])]);
        // Of what nobody knows all is hashed.
        assert_eq!(weights_of(&folder.path().join("safety_checker"), None).len(), 1);
    }
}
