//! Everything `sdtrain dataset inspect` says; serialised, it is what `--json` prints.

use std::collections::BTreeMap;

use sdtrain_data_loader::{Buckets, DataError, DataSet, ImageProblem, Placement, TokenWindow, examine};
use sdtrain_recipe::{DataConfig, Duplicates};
use serde::Serialize;

use crate::captions::CaptionReport;
use crate::duplicates::{Group, groups};
use crate::survey::{Depth, ImageFacts, Survey};

/// What a data set holds and what a run would make of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Inspection {
    /// The folders that were looked at.
    pub folders: Vec<String>,
    /// Whether images were decoded; without, broken files, sharpness and duplicates are not known.
    pub decoded: bool,
    /// Images found in all folders.
    pub found: usize,
    /// Images that a run would use.
    pub kept: usize,
    /// Images that cannot be read.
    pub unreadable: usize,
    /// Images that a run leaves out, with the reason.
    pub dropped: Vec<DroppedImage>,
    /// Buckets that hold images, sorted by size.
    pub buckets: Vec<Bucket>,
    /// What the files are inside, most frequent first.
    pub formats: Vec<FormatCount>,
    /// How large images and files are; absent when no image can be read.
    pub sizes: Option<Sizes>,
    /// Images that a run would use together with a mask, a control image or the like, by its column.
    pub extra_images: BTreeMap<String, usize>,
    /// Captions of the images that a run would use.
    pub captions: CaptionReport,
    /// Pictures that are there more than once.
    pub duplicates: Vec<CopyGroup>,
    /// Images that are a copy of another one with the same bytes.
    pub exact_copies: usize,
    /// Images that look nearly the same as another one.
    pub near_copies: usize,
    /// Regularization images that a run does not need, and that are not among those it would use.
    pub unused: usize,
    /// Visits of the first epoch: images with their repeats.
    pub visits_per_epoch: usize,
    /// The fewest and the most visits of one of the first epochs; absent when a run would not start.
    pub visits_in_epochs: Option<(usize, usize)>,
    /// Visits of the first epoch that fill no batch; absent when a run would not start.
    pub left_over: Option<usize>,
    /// Whether those wait for the next epoch (`data.leftovers = "carry"`), or are left out of theirs.
    pub carries: bool,
    /// Batches of the first epoch; absent when a run would not start.
    pub batches_per_epoch: Option<usize>,
    /// The fewest and the most batches of one of the first epochs; absent when a run would not start.
    pub batches_in_epochs: Option<(usize, usize)>,
    /// Why a run would not start.
    pub errors: Vec<String>,
    /// Things that may not be meant.
    pub warnings: Vec<String>,
}

/// A file that a run leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DroppedImage {
    /// The file.
    pub path: String,
    /// Why.
    pub reason: String,
}

impl From<&ImageProblem> for DroppedImage {
    fn from(problem: &ImageProblem) -> DroppedImage {
        DroppedImage { path: problem.path.to_string_lossy().into_owned(), reason: problem.reason.clone() }
    }
}

/// A bucket that holds images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bucket {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Images in it.
    pub images: usize,
    /// Visits of the first epoch: images with their repeats.
    pub visits: usize,
    /// Batches of the first epoch; absent when a run would not start.
    pub batches: Option<usize>,
    /// Part of the area of its scaled images that is cut away, on average, 0 to 1.
    pub cut_away: f64,
    /// Images that are enlarged to fill it.
    pub enlarged: usize,
}

/// Files of one format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FormatCount {
    /// `JPEG`, `PNG`, …
    pub format: String,
    /// Files.
    pub images: usize,
    /// Their length together.
    pub bytes: u64,
}

/// How large images and files are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sizes {
    /// Width in pixels.
    pub width: Spread,
    /// Height in pixels.
    pub height: Spread,
    /// Width divided by height.
    pub aspect: Spread,
    /// Length of the file.
    pub bytes: Spread,
    /// Bytes of the file divided by 1024 and by the number of pixels.
    pub kilobytes_per_pixel: Spread,
    /// Dots an inch of the files that state them.
    pub dpi: Option<Spread>,
    /// Variance of the Laplacian, see `data.clean.min_sharpness`.
    pub sharpness: Option<Spread>,
}

/// The smallest, the middle and the largest of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub least: f64,
    /// The middle one; of an even number the lower of the two in the middle.
    pub median: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these numbers, if there are any.
    pub(crate) fn of(mut numbers: Vec<f64>) -> Option<Spread> {
        numbers.sort_by(f64::total_cmp);
        let (least, most) = (*numbers.first()?, *numbers.last()?);
        Some(Spread { least, median: numbers[(numbers.len() - 1) / 2], most })
    }
}

/// One picture that is there more than once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyGroup {
    /// The one with the most pixels.
    pub kept: String,
    /// The others.
    pub copies: Vec<ImageCopy>,
}

/// A copy of a better image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageCopy {
    /// The file.
    pub path: String,
    /// Whether it has the same bytes.
    pub exact: bool,
    /// Bits in which the 64-bit difference hashes differ.
    pub distance: u32,
    /// Whether its caption is that of the better image.
    pub same_caption: bool,
}

/// The images of an inspection that its page shows, beside what it says.
pub(crate) struct Placed<'a> {
    pub facts: &'a ImageFacts,
    pub placement: Placement,
}

impl Inspection {
    /// Says what a survey found. `bucket_step` is the step between bucket sides where the configuration has none; `window` is how
    /// the model that captions are counted for reads them.
    pub fn of(
        survey: &Survey,
        depth: Depth,
        config: &DataConfig,
        seed: u64,
        bucket_step: usize,
        window: TokenWindow<'_>,
    ) -> Result<Inspection, DataError> {
        let buckets = survey.buckets(config, bucket_step)?;
        let mut inspection = Inspection {
            folders: config.subsets.iter().map(|subset| subset.path.to_string_lossy().into_owned()).collect(),
            decoded: depth == Depth::Pixels,
            found: survey.images.len() + survey.rejected.len(),
            formats: formats(&survey.images),
            sizes: sizes(&survey.images),
            ..Inspection::default()
        };
        let mut unreadable = survey.rejected.clone();
        inspection.dropped.extend(unreadable.iter().map(DroppedImage::from));
        for (image, outcome) in outcomes(survey, &buckets) {
            let Err(reason) = outcome else { continue };
            let problem = ImageProblem { path: image.location.path().to_owned(), reason };
            inspection.dropped.push(DroppedImage::from(&problem));
            if image.problem.is_some() {
                unreadable.push(problem);
            }
        }
        let placed = placed(survey, &buckets);
        inspection.kept = placed.len();
        inspection.unreadable = unreadable.len();
        inspection.buckets = bucket_counts(&placed, survey);
        inspection.visits_per_epoch = inspection.buckets.iter().map(|bucket| bucket.visits).sum();
        let used: Vec<&ImageFacts> = placed.iter().map(|placed| placed.facts).collect();
        inspection.captions = CaptionReport::of(survey, &used, window);
        for column in used.iter().flat_map(|image| &image.extra_columns) {
            *inspection.extra_images.entry(column.clone()).or_default() += 1;
        }
        if depth == Depth::Pixels {
            inspection.set_duplicates(survey, &copies(survey, config));
        }
        match DataSet::open(config, seed, bucket_step) {
            Ok(data) => {
                let report = data.report();
                inspection.visits_per_epoch = report.visits_per_epoch;
                inspection.visits_in_epochs = Some(report.visits_in_epochs);
                inspection.batches_per_epoch = Some(report.batches_per_epoch);
                inspection.batches_in_epochs = Some(report.batches_in_epochs);
                inspection.left_over = Some(report.left_over);
                inspection.carries = report.carries;
                inspection.unused = report.unused;
                inspection.kept -= report.unused.min(inspection.kept);
                inspection.warnings.clone_from(&report.warnings);
                for bucket in &mut inspection.buckets {
                    // Subsets that are batched apart may have buckets of one size.
                    let size = (bucket.width, bucket.height);
                    let counted = || report.buckets.iter().filter(|other| other.size == size);
                    bucket.visits = counted().map(|counted| counted.visits).sum();
                    bucket.batches = Some(counted().map(|counted| counted.batches).sum());
                }
                // Headers alone did not show these.
                if examine::is_too_many_unreadable(unreadable.len(), inspection.found) {
                    let found = inspection.found;
                    inspection.errors.push(DataError::TooManyUnreadable { found, unreadable }.to_string());
                }
            }
            Err(error) => {
                inspection.errors = error.each().into_iter().map(DataError::to_string).collect();
                // What else may not be meant is worth mending at the same time.
                inspection.warnings = examine::warnings(config, bucket_step).unwrap_or_default();
            }
        }
        inspection.errors.extend(config.check_images_are_used().err().map(|(message, _)| message));
        Ok(inspection)
    }

    fn set_duplicates(&mut self, survey: &Survey, groups: &[Group]) {
        for group in groups {
            let kept = &survey.images[group.kept];
            let copies = group.copies.iter().map(|copy| {
                let image = &survey.images[copy.image];
                ImageCopy {
                    path: image.name(),
                    exact: copy.is_exact,
                    distance: copy.distance,
                    same_caption: image.captions == kept.captions,
                }
            });
            let copies: Vec<ImageCopy> = copies.collect();
            self.exact_copies += copies.iter().filter(|copy| copy.exact).count();
            self.near_copies += copies.iter().filter(|copy| !copy.exact).count();
            self.duplicates.push(CopyGroup { kept: kept.name(), copies });
        }
    }
}

/// Every image with its place, or why a run leaves it out.
fn outcomes<'a>(
    survey: &'a Survey,
    buckets: &[Buckets],
) -> impl Iterator<Item = (&'a ImageFacts, Result<Placement, String>)> {
    survey.images.iter().map(|image| {
        let outcome = match (&image.problem, image.size) {
            (Some(problem), _) => Err(problem.clone()),
            (None, Some(size)) => buckets[image.subset].place(size),
            (None, None) => Err("has no size".to_owned()),
        };
        (image, outcome)
    })
}

/// The images that a run would use; `buckets` are those of each subset.
pub(crate) fn placed<'a>(survey: &'a Survey, buckets: &[Buckets]) -> Vec<Placed<'a>> {
    outcomes(survey, buckets).filter_map(|(facts, outcome)| Some(Placed { facts, placement: outcome.ok()? })).collect()
}

/// Copies among all images that can be decoded.
pub(crate) fn copies(survey: &Survey, config: &DataConfig) -> Vec<Group> {
    let all: Vec<usize> = (0..survey.images.len()).filter(|&image| survey.images[image].problem.is_none()).collect();
    let near = (config.clean.duplicates != Duplicates::Exact).then_some(config.clean.duplicate_distance);
    groups(&survey.images, &all, near)
}

fn bucket_counts(placed: &[Placed], survey: &Survey) -> Vec<Bucket> {
    let mut buckets: BTreeMap<(usize, usize), Bucket> = BTreeMap::new();
    let mut visits: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for Placed { facts, placement } in placed {
        let Placement { bucket: (width, height), resized } = *placement;
        let bucket = buckets.entry((width, height)).or_insert(Bucket {
            width,
            height,
            images: 0,
            visits: 0,
            batches: None,
            cut_away: 0.0,
            enlarged: 0,
        });
        bucket.images += 1;
        *visits.entry((width, height)).or_default() += survey.subsets[facts.subset].repeats;
        bucket.cut_away += 1.0 - (width * height) as f64 / (resized.0 * resized.1) as f64;
        bucket.enlarged += usize::from(facts.size.is_some_and(|size| resized.0 > size.0 || resized.1 > size.1));
    }
    let mean = |bucket: Bucket| Bucket {
        visits: visits[&(bucket.width, bucket.height)].ceil() as usize,
        cut_away: bucket.cut_away / bucket.images as f64,
        ..bucket
    };
    buckets.into_values().map(mean).collect()
}

fn formats(images: &[ImageFacts]) -> Vec<FormatCount> {
    let mut formats: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for image in images.iter().filter(|image| !image.format.is_empty()) {
        let count = formats.entry(&image.format).or_default();
        *count = (count.0 + 1, count.1 + image.bytes);
    }
    let count =
        |(format, (images, bytes)): (&str, (usize, u64))| FormatCount { format: format.to_owned(), images, bytes };
    let mut formats: Vec<FormatCount> = formats.into_iter().map(count).collect();
    formats.sort_by(|a, b| b.images.cmp(&a.images).then_with(|| a.format.cmp(&b.format)));
    formats
}

fn sizes(images: &[ImageFacts]) -> Option<Sizes> {
    let sized: Vec<(&ImageFacts, f64, f64)> =
        images.iter().filter_map(|image| image.size.map(|(w, h)| (image, w as f64, h as f64))).collect();
    let numbers = |number: fn(&ImageFacts, f64, f64) -> Option<f64>| {
        Spread::of(sized.iter().filter_map(|(image, width, height)| number(image, *width, *height)).collect())
    };
    Some(Sizes {
        width: numbers(|_, width, _| Some(width))?,
        height: numbers(|_, _, height| Some(height))?,
        aspect: numbers(|_, width, height| Some(width / height))?,
        bytes: numbers(|image, _, _| Some(image.bytes as f64))?,
        kilobytes_per_pixel: numbers(|image, width, height| Some(image.bytes as f64 / 1024.0 / (width * height)))?,
        dpi: numbers(|image, _, _| image.dpi),
        sharpness: numbers(|image, _, _| image.look.as_ref().map(|look| look.sharpness)),
    })
}
