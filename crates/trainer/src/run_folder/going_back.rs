//! A run that is told to go back to an earlier checkpoint: what is of later steps makes way for it, durably.

use super::{RECORD, RunFolder, SET_ASIDE, Saved, Start, free_name, is_finished, newest_in, record_in};
use crate::error::{Error, Result};
use sdtrain_checkpoint::vfs::{RealVfs, Vfs};
use sdtrain_checkpoint::{MANIFEST_NAME, Manifest, publish, verify, write_latest};
use sdtrain_recipe::{step_name, step_of_name};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

impl RunFolder {
    /// The folder for what is of later steps than the run goes back to.
    pub fn aside(&self) -> PathBuf {
        self.path.join(SET_ASIDE)
    }

    /// How far the run came whose record lies in the folder.
    pub fn was_at(&self) -> u64 {
        was_at(&self.path)
    }

    /// The last step that anything in the folder is known to be of.
    pub fn furthest_step(&self) -> u64 {
        let newest = newest_in(&self.checkpoints()).and_then(|path| step_of_name(path.file_name()?.to_str()?));
        newest.unwrap_or(0).max(self.was_at())
    }

    /// Moves what is newer than the checkpoint that was asked for out of the way: the next start must not take it for this run's,
    /// nor may this run's be deleted for being older. How many checkpoints and products; `products` are names in the folder.
    ///
    /// A checkpoint that lies elsewhere is copied to this run's: what is killed before it saves goes on from there.
    pub(super) fn set_newer_aside(&self, products: &[String]) -> Result<usize> {
        let (Some(newest), Start::Continue(saved)) = (&self.goes_back_to, &self.start) else { return Ok(0) };
        let checkpoints = self.checkpoints();
        let own_name = self.own_name_of(&saved.folder);
        let name = own_name.clone().unwrap_or_else(|| step_name(newest.step));
        let own = checkpoints.join(&name);
        let is_own = own_name.is_some() || is_copy(&own, &saved.folder);
        let entries = fs::read_dir(&checkpoints).into_iter().flatten().flatten();
        let is_newer = |path: &PathBuf| step_of(path).is_some_and(|step| step > newest.step);
        let newer: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_newer).collect();
        // A start after a kill in between must not find the run finished, and is without its product.
        if is_finished(&self.path) && self.was_at() > newest.step {
            self.set_aside(&self.path.join(RECORD))?;
        }
        // Checkpoints last: by them, a start after a kill in between knows that the run is still where it was.
        for product in products {
            self.set_aside(&self.path.join(product))?;
        }
        let mut count = products.len() + newer.len();
        if !is_own {
            if own.exists() {
                self.set_aside(&own)?;
                count += 1;
            }
            publish_copy(&checkpoints, &name, saved)?;
        }
        for checkpoint in &newer {
            self.set_aside(checkpoint)?;
        }
        write_latest(&RealVfs, &checkpoints, &name)?;
        // Else a power cut may bring the old names back, and with them the later steps.
        for folder in [self.aside(), checkpoints, self.path.clone()].iter().filter(|folder| folder.is_dir()) {
            RealVfs.sync_folder(folder).map_err(|error| Error::storage(folder, error))?;
        }
        Ok(count)
    }

    fn set_aside(&self, path: &Path) -> Result<()> {
        let aside = self.aside();
        fs::create_dir_all(&aside).map_err(|error| Error::storage(&aside, error))?;
        let target = free_name(&aside.join(path.file_name().unwrap_or_default()));
        fs::rename(path, &target).map_err(|error| Error::storage(&target, error))
    }

    /// The name of a checkpoint among those of this run; none where it lies elsewhere.
    fn own_name_of(&self, checkpoint: &Path) -> Option<String> {
        let (found, own) = (checkpoint.canonicalize().ok()?, self.checkpoints().canonicalize().ok()?);
        let name = found.file_name()?.to_str()?;
        (found.parent() == Some(own.as_path())).then(|| name.to_string())
    }
}

/// How far the run came whose record lies in `folder`, as far as that says; 0 where there is none.
pub(super) fn was_at(folder: &Path) -> u64 {
    let record = record_in(folder).unwrap_or_default();
    let [done, resumed] = ["steps", "resumed_step"].map(|key| record[key].as_u64().unwrap_or(0));
    done.max(resumed)
}

/// The step of a checkpoint, by its name or, where somebody gave it another, by its manifest, as a start finds it.
fn step_of(folder: &Path) -> Option<u64> {
    let name = folder.file_name()?.to_str().filter(|name| !name.starts_with('.'))?;
    let of_manifest = || {
        let manifest: Manifest = serde_json::from_slice(&fs::read(folder.join(MANIFEST_NAME)).ok()?).ok()?;
        Some(manifest.info.step)
    };
    step_of_name(name).or_else(of_manifest)
}

/// Whether `folder` is a whole checkpoint of the same content as `other`.
fn is_copy(folder: &Path, other: &Path) -> bool {
    let manifest = |folder: &Path| fs::read(folder.join(MANIFEST_NAME)).ok();
    let own = manifest(folder);
    own.is_some() && own == manifest(other) && verify(folder).is_ok()
}

/// Publishes what `saved` holds under `name` in `checkpoints`. What was copied is held against its manifest first.
fn publish_copy(checkpoints: &Path, name: &str, saved: &Saved) -> Result<()> {
    publish(checkpoints, name, saved.info.clone(), &mut |folder| {
        let json = fs::read(saved.folder.join(MANIFEST_NAME))?;
        let manifest: Manifest = serde_json::from_slice(&json)?;
        for file in &manifest.files {
            let mut from = File::open(saved.folder.join(&file.name))?;
            io::copy(&mut from, &mut File::create(folder.join(&file.name))?)?;
        }
        fs::write(folder.join(MANIFEST_NAME), json)?;
        verify(folder)?;
        // The copy is given its own.
        fs::remove_file(folder.join(MANIFEST_NAME))?;
        Ok(())
    })?;
    Ok(())
}
