//! Filling the cache of latents and text states ahead of a run, and taking out what no run uses (`sdtrain dataset cache`).

use crate::error::{Error, Result};
use crate::ranks::Ranks;
use crate::setup::{load_model, open_data};
use sdtrain_data_loader::{DataSet, ImageProblem};
use sdtrain_evaluate::prompt_reading;
use sdtrain_feature_cache::{EntryName, Pruned};
use sdtrain_features::{DiskLatents, DiskTexts, Survey};
use sdtrain_model::StableDiffusion;
use sdtrain_recipe::TrainConfig;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What is asked for beside the configuration.
#[derive(Debug, Default)]
pub struct Prefill {
    /// The device's name: `auto`, `cpu`, `cuda:N`.
    pub device: String,
    /// Whether latents are taken from kohya's files beside the images.
    pub import_npz: bool,
    /// Whether entries that are not used are deleted.
    pub prune: bool,
    /// Other configurations, whose entries are used too.
    pub keep_for: Vec<TrainConfig>,
}

/// What a filling came to.
#[derive(Debug)]
pub struct CacheReport {
    /// The folder.
    pub folder: PathBuf,
    /// Training images, held-out images and texts, those that are cached.
    pub parts: Vec<Filled>,
    /// Kohya's files that do not fit their image's place, with the reason; the images were encoded.
    pub refused: Vec<ImageProblem>,
    /// Images that cannot be decoded.
    pub unreadable: Vec<ImageProblem>,
    /// Entries that were deleted, where that was asked for.
    pub pruned: Option<Pruned>,
}

/// What became of one kind of things.
#[derive(Debug)]
pub struct Filled {
    /// What they are, as "images".
    pub what: &'static str,
    /// Those that had their entry already.
    pub hits: usize,
    /// Those that were taken from kohya's files.
    pub imported: usize,
    /// Those that were encoded.
    pub made: usize,
    /// Entries that were damaged, and were made again.
    pub damaged: usize,
}

/// Told of what is to be done: a line before anything is encoded, and of each kind of things how many are done, and of how many.
pub trait Watcher {
    /// How much there is to do.
    fn announce(&mut self, text: &str);

    /// `what` they are, as "images".
    fn progress(&mut self, what: &'static str, done: usize, total: usize);
}

/// Encodes what `config` will need and `data.cache_dir` does not hold: training images, held-out images, captions.
pub fn fill_cache(config: &TrainConfig, prefill: &Prefill, watcher: &mut dyn Watcher) -> Result<CacheReport> {
    let folder = config.data.cache_dir.clone().ok_or_else(|| Error::Config {
        message: "`data.cache_dir` is not set: there is no folder to fill".into(),
        hint: None,
    })?;
    let configs = || [config].into_iter().chain(&prefill.keep_for);
    if let Some(config) = configs().find(|config| prefill.prune && config.uses_class_images()) {
        return Err(Error::Config {
            message: format!(
                "`--prune` cannot tell which entries the class images of `{}` have: they are drawn by its run",
                config.name
            ),
            hint: Some("entries of images that are gone only take room; delete the folder to begin anew".into()),
        });
    }
    sdtrain_torch::use_threads(config.train.threads);
    let device = sdtrain_torch::device(&prefill.device)?;
    let model = load_model(config, device)?;
    let (data, held_out) = open_data(config, model.bucket_step(), &Ranks::alone())?;
    let mut used = Used::default();
    let mut parts = Vec::new();
    let mut refused = Vec::new();
    let image_sets = [
        config.data.cache_latents.then_some((&*data, "images", prefill.import_npz)),
        held_out.as_ref().map(|held_out| (held_out, "held-out images", false)),
    ];
    for (data, what, import_npz) in image_sets.into_iter().flatten() {
        let (mut disk, mut survey) = DiskLatents::open(&folder, &model, data, what)?;
        survey.tell_of_damage();
        let hits = survey.hits;
        if import_npz {
            refused = disk.import_npz(&mut survey)?.1;
        }
        watcher.announce(&survey.summary(&folder));
        let mut progress = |done, total| watcher.progress(what, done, total);
        let made = disk.fill(&model, &survey, config.data.workers, &mut progress)?;
        used.latents.extend(disk.names());
        parts.push(Filled { hits, made, ..Filled::of(&survey) });
    }
    if config.data.cache_text_encoder_outputs {
        let (disk, survey) = DiskTexts::open(&folder, &model, &data.captions_of_run()?, prompt_reading(&config.model))?;
        survey.tell_of_damage();
        watcher.announce(&survey.summary(&folder));
        disk.fill(&model, &survey, &mut |done, total| watcher.progress("texts", done, total))?;
        used.texts.extend(disk.names());
        parts.push(Filled { made: survey.missing.len(), ..Filled::of(&survey) });
    }
    let pruned = match prefill.prune {
        false => None,
        true => {
            drop(model);
            for other in &prefill.keep_for {
                used.add(other, &folder, &load_model(other, device)?)?;
            }
            Some(used.prune(&folder)?)
        }
    };
    let mut unreadable: Vec<ImageProblem> =
        [Some(&*data), held_out.as_ref()].into_iter().flatten().flat_map(DataSet::unreadable).collect();
    // An image may be in both.
    unreadable.sort_by(|a, b| a.path.cmp(&b.path));
    unreadable.dedup_by(|a, b| a.path == b.path);
    Ok(CacheReport { folder, parts, refused, unreadable, pruned })
}

/// The entries that configurations use.
#[derive(Default)]
struct Used {
    latents: HashSet<EntryName>,
    texts: HashSet<EntryName>,
}

impl Used {
    /// Adds those of a configuration.
    fn add(&mut self, config: &TrainConfig, folder: &Path, model: &StableDiffusion) -> Result<()> {
        let (data, held_out) = open_data(config, model.bucket_step(), &Ranks::alone())?;
        for data in [Some(&*data), held_out.as_ref()].into_iter().flatten() {
            self.latents.extend(DiskLatents::open(folder, model, data, "images")?.0.names());
        }
        if config.data.cache_text_encoder_outputs {
            let texts = data.captions_of_run()?;
            self.texts.extend(DiskTexts::open(folder, model, &texts, prompt_reading(&config.model))?.0.names());
        }
        Ok(())
    }

    /// Deletes all others.
    fn prune(&self, folder: &Path) -> Result<Pruned> {
        let pruned = || {
            let latents = sdtrain_feature_cache::LatentFolder::open(folder)?.prune(&self.latents)?;
            let texts = sdtrain_feature_cache::TextFolder::open(folder)?.prune(&self.texts)?;
            Ok(Pruned { entries: latents.entries + texts.entries, bytes: latents.bytes + texts.bytes })
        };
        pruned().map_err(|error: sdtrain_feature_cache::Error| sdtrain_features::Error::from(error).into())
    }
}

impl Filled {
    /// Of nothing that was encoded yet.
    fn of<T>(survey: &Survey<T>) -> Filled {
        let Survey { what, hits, imported, damaged, .. } = survey;
        Filled { what, hits: *hits, imported: *imported, made: 0, damaged: damaged.len() }
    }
}

impl CacheReport {
    /// The answer of the command, a line for each kind of things.
    pub fn text(&self) -> String {
        let count = |number: usize, what: &str| (number > 0).then(|| format!("{number} {what}"));
        let mut lines = Vec::new();
        for Filled { what, hits, imported, made, damaged } in &self.parts {
            let parts = [
                Some(format!("{what}: {hits} were in `{}`", self.folder.display())),
                count(*imported, "were taken from kohya's files, without randomness"),
                Some(format!("{made} were encoded")),
                count(*damaged, "of these in the place of damaged entries"),
            ];
            lines.push(parts.into_iter().flatten().collect::<Vec<_>>().join(", "));
        }
        lines.extend(count(self.refused.len(), "of kohya's files do not fit"));
        lines.extend(count(self.unreadable.len(), "images cannot be read"));
        if let Some(Pruned { entries, bytes }) = self.pruned {
            lines.push(format!("{entries} entries that are not used were deleted, {}", sdtrain_files::in_words(bytes)));
        }
        lines.join("\n")
    }
}
