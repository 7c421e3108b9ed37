//! One look at every image of a data set: its bytes, its header and, if wanted, its pixels.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sdtrain_data_loader::{Buckets, DataError, ImageLocation, ImageProblem, SourceCaption, SourceExample, examine};
use sdtrain_recipe::{AlphaConfig, DataConfig, Subset};

use crate::dots_per_inch::dots_per_inch;
use crate::perceptual::Look;

/// Longer files are not read: no image of a data set is as long.
const LONGEST_FILE: u64 = 1 << 30;
/// More threads would need more memory than most machines have, each with a large image.
const MOST_THREADS: usize = 16;

/// How closely images are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Headers only: no duplicates, no sharpness, and a file broken behind its header is not noticed.
    Header,
    /// Every image is read and decoded, and so are masks and other images that belong to it.
    Pixels,
}

/// What is known of one image.
#[derive(Debug, Clone)]
pub struct ImageFacts {
    /// Where it lies.
    pub location: ImageLocation,
    /// Number of its subset.
    pub subset: usize,
    /// Path below the subset's folder.
    pub relative: PathBuf,
    /// Its file with all links followed.
    pub real: PathBuf,
    /// Whether there is a link on the way from the subset's folder to it.
    pub is_link: bool,
    /// What the file is inside, `JPEG` or `PNG`; its name proves nothing.
    pub format: String,
    /// Length of the file.
    pub bytes: u64,
    /// `(width, height)` in pixels, orientation applied.
    pub size: Option<(usize, usize)>,
    /// Dots an inch, where the file states them; the fewer of across and down.
    pub dpi: Option<f64>,
    /// Digest of the bytes; absent when only headers were read.
    pub content: Option<[u8; 32]>,
    /// What it looks like; absent when only headers were read.
    pub look: Option<Look>,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// Its captions as they are written.
    pub captions: Vec<SourceCaption>,
    /// Columns of the images that belong to it: `mask`, or what its control image is called.
    pub extra_columns: Vec<String>,
    /// Those of them that are files of their own.
    pub extra_images: Vec<PathBuf>,
}

impl ImageFacts {
    /// Number of pixels; 0 where the size is not known.
    pub fn pixels(&self) -> usize {
        self.size.map_or(0, |(width, height)| width * height)
    }

    /// The path as it is shown.
    pub fn name(&self) -> String {
        self.location.path().to_string_lossy().into_owned()
    }
}

/// All images of a data set.
#[derive(Debug, Default)]
pub struct Survey {
    /// The subsets that images number: those of the configuration, folders of DreamBooth folders taken apart.
    pub subsets: Vec<Subset>,
    /// Every image that was found, subset after subset, each in the order in which a run lists it.
    pub images: Vec<ImageFacts>,
    /// Images that are named or stored but cannot be had, with the reason.
    pub rejected: Vec<ImageProblem>,
    /// Caption files that cannot be read.
    pub broken_captions: Vec<ImageProblem>,
    /// Caption files that belong to no image.
    pub captions_without_image: Vec<PathBuf>,
}

impl Survey {
    /// The buckets of each subset.
    pub(crate) fn buckets(&self, config: &DataConfig, bucket_step: usize) -> Result<Vec<Buckets>, DataError> {
        Buckets::of_subsets(&DataConfig { subsets: self.subsets.clone(), ..config.clone() }, bucket_step)
    }

    /// Looks at every image. `progress` is told how many of how many have been looked at, from several threads.
    pub fn of(
        config: &DataConfig,
        depth: Depth,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Survey, DataError> {
        if config.subsets.is_empty() {
            return Err(DataError::NoSubsets);
        }
        let mut survey = Survey { subsets: examine::subsets(config)?, ..Survey::default() };
        let mut errors = Vec::new();
        let mut found = Vec::new();
        for (index, subset) in survey.subsets.iter().enumerate() {
            match examine::list(subset) {
                Ok(listing) => {
                    let folder = folder_of(&subset.path);
                    let root = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
                    found.extend(listing.examples.into_iter().map(|example| Found {
                        subset: index,
                        relative: example.image.path().strip_prefix(folder).map(Path::to_owned).ok(),
                        root: root.clone(),
                        example,
                    }));
                    survey.rejected.extend(listing.rejected);
                    survey.broken_captions.extend(listing.broken_captions);
                    survey.captions_without_image.extend(listing.captions_without_image);
                }
                Err(error) => errors.push(error),
            }
        }
        match errors.len() {
            0 => {}
            1 => return Err(errors.remove(0)),
            _ => return Err(DataError::Several(errors)),
        }
        survey.images = look_at_all(&found, depth, &config.alpha, progress);
        Ok(survey)
    }
}

/// The folder of a subset; one that is a file or a pattern lies in its folder.
fn folder_of(subset: &Path) -> &Path {
    match subset.parent() {
        Some(parent) if !subset.is_dir() && !parent.as_os_str().is_empty() => parent,
        Some(_) if !subset.is_dir() => Path::new("."),
        _ => subset,
    }
}

/// One example before it was looked at.
struct Found {
    subset: usize,
    root: PathBuf,
    relative: Option<PathBuf>,
    example: SourceExample,
}

fn look_at_all(
    found: &[Found],
    depth: Depth,
    alpha: &AlphaConfig,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Vec<ImageFacts> {
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let work = || {
        let mut facts = Vec::new();
        loop {
            // One at a time: images differ too much in size for equal shares to take equally long.
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(found_here) = found.get(index) else { return facts };
            facts.push((index, look_at(found_here, depth, alpha)));
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, found.len());
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(found.len()).max(1);
    let mut facts: Vec<(usize, ImageFacts)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("looking at an image catches panics")).collect()
    });
    facts.sort_unstable_by_key(|(index, _)| *index);
    facts.into_iter().map(|(_, facts)| facts).collect()
}

fn look_at(found: &Found, depth: Depth, alpha: &AlphaConfig) -> ImageFacts {
    let location = &found.example.image;
    let path = location.path();
    let relative = found.relative.clone().unwrap_or_else(|| path.to_owned());
    let real = match location.is_file() {
        true => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
        false => path.to_owned(),
    };
    let mut facts = ImageFacts {
        is_link: location.is_file() && real != found.root.join(&relative),
        location: location.clone(),
        subset: found.subset,
        relative,
        real,
        format: String::new(),
        bytes: 0,
        size: None,
        dpi: None,
        content: None,
        look: None,
        problem: None,
        captions: found.example.captions.clone(),
        extra_columns: found.example.extra_images.keys().cloned().collect(),
        extra_images: extra_files(&found.example),
    };
    let looked = catch_unwind(AssertUnwindSafe(|| fill_in(&mut facts, &found.example, depth, alpha)));
    facts.problem = match looked {
        Ok(result) => result.err(),
        Err(_) => Some("is so broken that looking at it failed".to_owned()),
    };
    facts
}

fn extra_files(example: &SourceExample) -> Vec<PathBuf> {
    let files = example.extra_images.values().filter(|location| location.is_file());
    files.map(|location| location.path().to_owned()).collect()
}

fn fill_in(facts: &mut ImageFacts, example: &SourceExample, depth: Depth, alpha: &AlphaConfig) -> Result<(), String> {
    facts.bytes = facts.location.length().map_err(|e| e.to_string())?;
    if facts.bytes > LONGEST_FILE {
        return Err(format!("is longer than {} GiB", LONGEST_FILE >> 30));
    }
    let inside = examine::format_name(&facts.location);
    facts.format = inside.map_or_else(|| format_by_name(&facts.relative), str::to_owned);
    if depth == Depth::Header {
        let size = examine::read_size(&facts.location)?;
        facts.size = Some(size);
        return examine::look_at_extra_images(example, size);
    }
    let bytes = facts.location.read().map_err(|e| e.to_string())?;
    facts.content = Some(examine::content_digest(&bytes));
    facts.dpi = dots_per_inch(&bytes);
    drop(bytes);
    let size = examine::read_size(&facts.location)?;
    facts.size = Some(size);
    facts.look = Some(Look::at(examine::decode(&facts.location, alpha)?)?);
    examine::look_at_extra_images(example, size)?;
    examine::decode_extra_images(example, alpha)
}

/// What the ending of a name says about a file that is no image.
fn format_by_name(path: &Path) -> String {
    match path.extension() {
        Some(ending) => format!("no image (.{})", ending.to_string_lossy().to_ascii_lowercase()),
        None => "no image".to_owned(),
    }
}
