//! Which images are taken out, why, which files go with them, and where to.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use sdtrain_data_loader::{EXTENSIONS, examine};
use sdtrain_recipe::{CleanConfig, DataConfig, Duplicates, SourceFormat};
use serde::Serialize;

use super::filters::FILTERS;
use crate::Error;
use crate::duplicates::groups;
use crate::survey::{ImageFacts, Survey};

/// What is to be moved. Serialised, it is what `--json` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Images that were looked at.
    pub found: usize,
    /// How many images each rule takes out; an image that fails several is counted by each.
    pub rules: Vec<RuleCount>,
    /// The images to be moved, each with the files that belong to it.
    pub removals: Vec<Removal>,
    /// Images that fail a rule and still stay, since they cannot be moved.
    pub staying: Vec<StayingImage>,
    /// What moving files does not do.
    pub notes: Vec<String>,
}

/// How many images a rule takes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleCount {
    /// The rule's key in `[data.clean]`.
    pub rule: &'static str,
    /// Images.
    pub images: usize,
}

/// One image to be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// The folder of the data.
    #[serde(serialize_with = "as_text")]
    pub folder: PathBuf,
    /// The folder that it goes to.
    #[serde(serialize_with = "as_text")]
    pub to: PathBuf,
    /// The image, below both folders.
    pub file: String,
    /// Files in the same folders that go with it: its caption and its latents, which have its name, its mask and other images.
    pub with: Vec<String>,
    /// Files that go with it from other folders of the data: masks and the like that have a folder of their own.
    pub elsewhere: Vec<Companion>,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// A file that goes with an image and lies in another folder of the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Companion {
    /// That folder.
    #[serde(serialize_with = "as_text")]
    pub folder: PathBuf,
    /// The folder that it goes to.
    #[serde(serialize_with = "as_text")]
    pub to: PathBuf,
    /// The file, below both folders.
    pub file: String,
}

/// One rule that an image fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The rule's key in `[data.clean]`.
    pub rule: &'static str,
    /// In words.
    pub reason: String,
}

/// An image that fails a rule and cannot be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StayingImage {
    /// The image.
    pub path: String,
    /// Why it was to be moved, and why it stays.
    pub reason: String,
}

fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl Plan {
    /// What `[data.clean]` takes out of the images of a survey. `to`: where they go instead of a folder beside the data.
    pub fn of(survey: &Survey, config: &DataConfig, to: Option<&Path>) -> Result<Plan, Error> {
        let clean = &config.clean;
        let reasons = reasons(survey, clean);
        let mut plan = Plan { found: survey.images.len(), ..Plan::default() };
        for rule in FILTERS.iter().map(|filter| filter.key).chain(["duplicates"]) {
            let images = reasons.values().filter(|reasons| reasons.iter().any(|reason| reason.rule == rule)).count();
            plan.rules.push(RuleCount { rule, images });
        }
        let folders = Folders::of(config, to)?;
        let mut moved = Vec::new();
        for (image, reasons) in reasons {
            let facts = &survey.images[image];
            let stays = if !facts.location.is_file() {
                Some("lies in a larger file")
            } else if facts.is_link {
                Some("is a link, or lies behind one")
            } else if facts.real.to_str().is_none() {
                Some("has a name that is not UTF-8, which a manifest cannot hold")
            } else {
                None
            };
            match (stays, folders.place(&facts.real)) {
                (None, Some(place)) => moved.push((facts.real.clone(), place, reasons)),
                (stays, _) => plan.staying.push(StayingImage {
                    path: facts.name(),
                    reason: format!("{}; stays: {}", words(&reasons), stays.unwrap_or("lies outside the folders")),
                }),
            }
        }
        // The same file may have been listed by two subsets.
        moved.sort_by(|a, b| a.0.cmp(&b.0));
        moved.dedup_by(|a, b| a.0 == b.0);
        let paths: BTreeSet<&Path> = moved.iter().map(|(path, ..)| path.as_path()).collect();
        plan.notes = notes_on_tables(survey, &paths);
        let mut extra_images = ExtraImages::of(survey, &paths);
        let mut companions = Companions::of(paths)?;
        for (path, (folder, to), reasons) in moved {
            let below = |folder: &Path, path: &Path| path.strip_prefix(folder).ok()?.to_str().map(str::to_owned);
            let Some(file) = below(&folder, &path) else { continue };
            let mut with: Vec<String> = companions.take(&path).iter().filter_map(|path| below(&folder, path)).collect();
            let mut elsewhere = Vec::new();
            for extra in extra_images.take(&path) {
                let Some((its_folder, its_to)) = folders.place(&extra) else { continue };
                let Some(file) = below(&its_folder, &extra) else { continue };
                if its_folder != folder {
                    elsewhere.push(Companion { folder: its_folder, to: its_to, file });
                } else if !with.contains(&file) {
                    with.push(file);
                }
            }
            plan.removals.push(Removal { folder, to, file, with, elsewhere, reasons });
        }
        Ok(plan)
    }
}

/// All reasons in one line.
pub(crate) fn words(reasons: &[Reason]) -> String {
    reasons.iter().map(|reason| reason.reason.as_str()).collect::<Vec<_>>().join("; ")
}

/// Why each image is taken out, by its number.
fn reasons(survey: &Survey, clean: &CleanConfig) -> BTreeMap<usize, Vec<Reason>> {
    let mut reasons: BTreeMap<usize, Vec<Reason>> = BTreeMap::new();
    for (index, image) in survey.images.iter().enumerate() {
        let failed = FILTERS
            .iter()
            .filter_map(|filter| Some(Reason { rule: filter.key, reason: (filter.reason)(image, clean)? }));
        let failed: Vec<Reason> = failed.collect();
        if !failed.is_empty() {
            reasons.insert(index, failed);
        }
    }
    let near = match clean.duplicates {
        Duplicates::Keep => return reasons,
        Duplicates::Exact => None,
        Duplicates::Near => Some(clean.duplicate_distance),
    };
    // Only among those that stay, or a picture could go with all its copies.
    let others: Vec<usize> = (0..survey.images.len())
        .filter(|index| !reasons.contains_key(index) && survey.images[*index].problem.is_none())
        .collect();
    for group in groups(&survey.images, &others, near) {
        let kept = survey.images[group.kept].name();
        for copy in group.copies {
            let reason = match copy.is_exact {
                true => format!("has the same bytes as `{kept}`"),
                false => format!("looks like `{kept}`: {} of 64 bits differ", copy.distance),
            };
            reasons.insert(copy.image, vec![Reason { rule: "duplicates", reason }]);
        }
    }
    reasons
}

/// The folders of the data, none within another, each with the folder that its images go to.
struct Folders(Vec<(PathBuf, PathBuf)>);

impl Folders {
    fn of(config: &DataConfig, to: Option<&Path>) -> Result<Folders, Error> {
        let of_extra_images = config.subsets.iter().flat_map(|subset| &subset.extra_images);
        let all = config.subsets.iter().map(|subset| &subset.path).chain(of_extra_images.flat_map(|extra| &extra.path));
        let all: BTreeSet<PathBuf> = all.filter_map(|path| fs::canonicalize(path).ok()).collect();
        let outermost = all.iter().filter(|folder| !all.iter().any(|o| o != *folder && folder.starts_with(o)));
        let outermost: Vec<&PathBuf> = outermost.collect();
        let to = to.map(real_path).transpose()?;
        let mut folders: Vec<(PathBuf, PathBuf)> = Vec::new();
        for folder in &outermost {
            let name = folder.file_name().map(OsStr::to_os_string);
            let target = match (&to, name) {
                (Some(to), _) if outermost.len() == 1 => to.clone(),
                (Some(to), name) => {
                    let name = name.unwrap_or_default();
                    let free = |number: usize| {
                        let mut name = name.clone();
                        if number > 1 {
                            name.push(format!("-{number}"));
                        }
                        let target = to.join(name);
                        (!folders.iter().any(|(_, other)| *other == target)).then_some(target)
                    };
                    (1..).find_map(free).expect("numbers do not run out")
                }
                (None, Some(mut name)) => {
                    name.push("-removed");
                    folder.with_file_name(name)
                }
                (None, None) => {
                    let reason = "the data lies in the topmost folder, which has nothing beside it".to_owned();
                    return Err(Error::Target { path: folder.to_path_buf(), reason });
                }
            };
            if let Some(data) = all.iter().find(|data| target.starts_with(data)) {
                let reason = format!("it lies in the data, `{}`, and would be found there again", data.display());
                return Err(Error::Target { path: target, reason });
            }
            folders.push((folder.to_path_buf(), target));
        }
        Ok(Folders(folders))
    }

    /// The data's folder that holds a file, and where that folder's images go.
    fn place(&self, file: &Path) -> Option<(PathBuf, PathBuf)> {
        self.0.iter().find(|(folder, _)| file.starts_with(folder)).cloned()
    }
}

/// Images that images have: masks, control images and the like.
struct ExtraImages(BTreeMap<PathBuf, BTreeSet<PathBuf>>);

impl ExtraImages {
    /// Of all images that are moved. One that an image which stays has as well stays with it, and so does a link.
    fn of(survey: &Survey, moved: &BTreeSet<&Path>) -> ExtraImages {
        let mut stay: BTreeSet<PathBuf> = survey.images.iter().map(|image| image.real.clone()).collect();
        let mut go: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
        for image in &survey.images {
            for extra in &image.extra_images {
                let is_link = fs::symlink_metadata(extra).is_ok_and(|metadata| metadata.is_symlink());
                let Ok(real) = fs::canonicalize(extra) else { continue };
                match moved.contains(image.real.as_path()) && !is_link {
                    true => go.entry(image.real.clone()).or_default().insert(real),
                    false => stay.insert(real),
                };
            }
        }
        go.values_mut().for_each(|extras| extras.retain(|extra| !stay.contains(extra)));
        ExtraImages(go)
    }

    /// Those of one image; what several images share goes with the first.
    fn take(&mut self, image: &Path) -> BTreeSet<PathBuf> {
        let taken = self.0.remove(image).unwrap_or_default();
        self.0.values_mut().for_each(|others| others.retain(|other| !taken.contains(other)));
        taken
    }
}

/// Tables keep the rows of images that are taken out.
fn notes_on_tables(survey: &Survey, moved: &BTreeSet<&Path>) -> Vec<String> {
    let mut notes = Vec::new();
    for (index, subset) in survey.subsets.iter().enumerate() {
        if !matches!(examine::format(subset), SourceFormat::Metadata | SourceFormat::KohyaMetadata) {
            continue;
        }
        let is_moved = |image: &&ImageFacts| image.subset == index && moved.contains(image.real.as_path());
        let rows = survey.images.iter().filter(is_moved).count();
        if rows > 0 {
            let table = subset.metadata_file.as_ref().unwrap_or(&subset.path);
            notes.push(format!(
                "the table of `{}` is not changed and keeps the rows of {rows} images that are taken out: remove them too, \
                 or a run names these images as missing and does not start where they are more than 1 in 100",
                table.display()
            ));
        }
    }
    notes
}

/// A path with all links followed, as far as it exists.
fn real_path(path: &Path) -> Result<PathBuf, Error> {
    let absolute = std::path::absolute(path).map_err(|error| Error::storage(path, &error))?;
    for ancestor in absolute.ancestors() {
        if let Ok(real) = fs::canonicalize(ancestor) {
            let rest = absolute.strip_prefix(ancestor).expect("it is one of its ancestors");
            return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
        }
    }
    Ok(absolute)
}

/// Files that have an image's name with another ending and go where it goes.
struct Companions(BTreeMap<PathBuf, Vec<PathBuf>>);

impl Companions {
    /// Of all images that are moved. A file that belongs to an image that stays as well stays with it.
    fn of(moved: BTreeSet<&Path>) -> Result<Companions, Error> {
        let folders: BTreeSet<&Path> = moved.iter().filter_map(|path| path.parent()).collect();
        let stems: BTreeSet<PathBuf> = moved.iter().map(|path| path.with_extension("")).collect();
        let mut companions: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        let mut shared = BTreeSet::new();
        for folder in folders {
            let storage = |error: std::io::Error| Error::storage(folder, &error);
            for entry in fs::read_dir(folder).map_err(storage)? {
                let path = entry.map_err(storage)?.path();
                let stem = path.with_extension("");
                if !stems.contains(&stem) || moved.contains(path.as_path()) || stem == path {
                    continue;
                }
                let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
                if EXTENSIONS.contains(&ending.as_str()) {
                    shared.insert(stem);
                } else if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                    companions.entry(stem).or_default().push(path);
                }
            }
        }
        companions.retain(|stem, _| !shared.contains(stem));
        companions.values_mut().for_each(|paths| paths.sort());
        Ok(Companions(companions))
    }

    /// Those of one image; of several images of one name the first has them.
    fn take(&mut self, image: &Path) -> Vec<PathBuf> {
        self.0.remove(&image.with_extension("")).unwrap_or_default()
    }
}
