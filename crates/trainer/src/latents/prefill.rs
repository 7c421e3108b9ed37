//! Filling the cache of latents ahead of a run (`sdtrain dataset cache`).

use super::disk::DiskLatents;
use crate::error::{Error, Result};
use crate::setup::{load_model, open_data};
use sdtrain_data_loader::ImageProblem;
use sdtrain_recipe::TrainConfig;
use std::path::PathBuf;

/// What a filling came to.
#[derive(Debug)]
pub struct CacheReport {
    /// The folder.
    pub folder: PathBuf,
    /// Images that had their entry already.
    pub hits: usize,
    /// Images whose latents were taken from kohya's files.
    pub imported: usize,
    /// Images that were encoded.
    pub made: usize,
    /// Entries that were damaged, and are made again.
    pub damaged: usize,
    /// Kohya's files that do not fit their image's place, with the reason; the images were encoded.
    pub refused: Vec<ImageProblem>,
    /// Images that cannot be decoded.
    pub unreadable: Vec<ImageProblem>,
}

/// Encodes every training image of `config` that `data.cache_dir` does not hold, on the device of this name.
///
/// `announce` is told first how much it is; `progress(done, total)`.
pub fn fill_latent_cache(
    config: &TrainConfig,
    device: &str,
    import_npz: bool,
    announce: &mut dyn FnMut(&str),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<CacheReport> {
    let folder = config.data.cache_dir.clone().ok_or_else(|| Error::Config {
        message: "`data.cache_dir` is not set: there is no folder to fill".into(),
        hint: None,
    })?;
    if let Some(threads) = config.train.threads {
        sdtrain_torch::set_threads(threads);
    }
    let model = load_model(config, sdtrain_torch::device(device)?)?;
    let (data, _) = open_data(config, model.bucket_step())?;
    let (mut disk, mut survey) = DiskLatents::open(&folder, &model, &data)?;
    survey.tell_of_damage();
    let hits = survey.hits;
    let (imported, refused) = match import_npz {
        true => disk.import_npz(&mut survey)?,
        false => (0, Vec::new()),
    };
    announce(&survey.summary(&folder));
    let made = disk.fill(&model, &survey.missing, config.data.workers, progress)?;
    Ok(CacheReport {
        folder,
        hits,
        imported,
        made,
        damaged: survey.damaged.len(),
        refused,
        unreadable: data.unreadable(),
    })
}

impl CacheReport {
    /// The answer of the command.
    pub fn text(&self) -> String {
        let count = |number: usize, what: &str| (number > 0).then(|| format!("{number} {what}"));
        let parts = [
            Some(format!("{} images were in `{}`", self.hits, self.folder.display())),
            count(self.imported, "were taken from kohya's files, without randomness"),
            Some(format!("{} were encoded", self.made)),
            count(self.damaged, "of these in the place of damaged entries"),
            count(self.refused.len(), "of kohya's files do not fit"),
            count(self.unreadable.len(), "images cannot be read"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}
