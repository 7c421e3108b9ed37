//! Looks through the subsets of a configuration: every image's size, caption and bucket, nothing decoded; all problems at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sdtrain_recipe::{DataConfig, MissingCaption, Subset};

use crate::buckets::{Buckets, Placement, Size};
use crate::image::Look;
use crate::looks::{Looks, look_at_all};
use crate::manifest::{self, Manifest};
use crate::report::CaptionCounts;
use crate::source::{self, ImageLocation, Listing, SourceCaption};
use crate::{DataError, ImageProblem, extra_images};

/// One image that can be trained on.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub location: ImageLocation,
    pub file_length: u64,
    pub subset: usize,
    pub size: Size,
    pub placement: Placement,
    pub captions: Vec<SourceCaption>,
    /// Its mask and other images that belong to it, by column.
    pub extra_images: BTreeMap<String, ImageLocation>,
    /// What a table says its loss is multiplied by.
    pub loss_weight: f64,
}

impl Image {
    /// Path below its subset's folder, for the fingerprint: a data set that was moved is the same.
    pub fn relative(&self, subset: &Subset) -> &Path {
        let path = self.location.path();
        // A subset that is a file or a pattern lies in its folder.
        let folder = subset.path.parent().unwrap_or(&subset.path);
        path.strip_prefix(&subset.path).or_else(|_| path.strip_prefix(folder)).unwrap_or(path)
    }
}

/// What a look through the folders gave.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub images: Vec<Image>,
    pub found: usize,
    pub dropped: Vec<ImageProblem>,
    pub unreadable: usize,
    /// Regularization images that are not needed.
    pub unused: usize,
    pub captions: CaptionCounts,
    pub warnings: Vec<String>,
}

/// Whether so many unreadable images are too many: more than one in a hundred.
pub(crate) fn too_many(unreadable: usize, found: usize) -> bool {
    unreadable * 100 > found
}

/// Looks at every subset of the configuration; `buckets` are those of each subset.
pub(crate) fn scan(config: &DataConfig, buckets: &[Buckets]) -> Result<Scan, DataError> {
    if config.subsets.is_empty() {
        return Err(DataError::NoSubsets);
    }
    let mut errors = Vec::new();
    let mut listings: Vec<(usize, Listing)> = Vec::new();
    for (index, subset) in config.subsets.iter().enumerate() {
        let unread = source::unread(subset);
        if !unread.is_empty() {
            errors.extend(unread);
            continue;
        }
        match source::open_source(subset).list() {
            Ok(listing) => listings.push((index, listing)),
            Err(error) => errors.push(error),
        }
    }

    let mut scan = Scan::default();
    let mut broken_captions = Vec::new();
    let mut unreadable = Vec::new();
    let mut uncaptioned: Vec<PathBuf> = Vec::new();
    let mut other_endings = BTreeSet::new();
    let mut hint_of_source = None;
    let mut extra_without_image: Vec<PathBuf> = Vec::new();
    let mut animated_files: Vec<PathBuf> = Vec::new();
    let mut identities: Vec<u64> = Vec::new();
    for (subset_index, listing) in listings {
        let subset = &config.subsets[subset_index];
        let extensions = subset.caption_extensions();
        let broken: BTreeSet<PathBuf> = listing.broken_captions.iter().map(|problem| problem.path.clone()).collect();
        let is_broken = |image: &Path| {
            // A caption of a table goes by the name of its image.
            broken.contains(image)
                || extensions
                    .iter()
                    .any(|extension| broken.contains(&image.with_extension(extension.trim_start_matches('.'))))
        };
        scan.found += listing.examples.len() + listing.rejected.len();
        scan.warnings.extend(listing.warnings);
        scan.dropped.extend(listing.rejected.iter().cloned());
        unreadable.extend(listing.rejected);
        scan.captions.without_image.extend(listing.captions_without_image);
        broken_captions.extend(listing.broken_captions);
        let Looks { looked, identities: of_subset, warning } =
            look_at_all(&listing.examples, manifest_of(subset).as_ref());
        scan.warnings.extend(warning);
        scan.images.reserve(listing.examples.len());
        for ((example, look), identity) in listing.examples.into_iter().zip(looked).zip(of_subset) {
            let (Look { size, animated, .. }, file_length) = match look {
                Ok(look) => look,
                Err(reason) => {
                    let path = example.image.path().to_owned();
                    unreadable.push(ImageProblem { path: path.clone(), reason: reason.clone() });
                    scan.dropped.push(ImageProblem { path, reason });
                    continue;
                }
            };
            let placement = match buckets[subset_index].place(size) {
                Ok(placement) => placement,
                Err(reason) => {
                    scan.dropped.push(ImageProblem { path: example.image.path().to_owned(), reason });
                    continue;
                }
            };
            let path = example.image.path();
            if animated {
                animated_files.push(path.to_owned());
            }
            let mut captions = example.captions;
            for caption in captions.iter().filter(|caption| extensions.len() > 1 && !caption.text.is_empty()) {
                if let Some(extension) = extensions.get(caption.source) {
                    *scan.captions.by_extension.entry(extension.clone()).or_default() += 1;
                }
            }
            if captions.iter().any(|caption| !caption.text.is_empty()) {
                scan.captions.from_file += 1;
            } else if !captions.is_empty() {
                scan.captions.empty += 1;
            } else if let Some(class_tokens) = &subset.class_tokens {
                scan.captions.from_class_tokens += 1;
                captions.push(SourceCaption { source: 0, text: class_tokens.clone() });
            } else if !is_broken(path) {
                // A caption that is there but broken is reported as that, not as missing as well.
                uncaptioned.push(path.to_owned());
                hint_of_source = hint_of_source.or_else(|| listing.caption_hint.clone());
            }
            identities.push(identity);
            let loss_weight = listing.loss_weights.get(path).copied().unwrap_or(1.0);
            scan.images.push(Image {
                location: example.image,
                file_length,
                subset: subset_index,
                size,
                placement,
                captions,
                extra_images: example.extra_images,
                loss_weight,
            });
        }
        other_endings.extend(listing.other_endings);
        extra_without_image.extend(listing.extra_images_without_image);
    }

    scan.unreadable = unreadable.len();
    if too_many(unreadable.len(), scan.found) {
        errors.push(DataError::TooManyUnreadable { found: scan.found, unreadable });
    } else if scan.images.is_empty() && errors.is_empty() {
        errors.push(DataError::NothingLeft { found: scan.found, dropped: scan.dropped.clone() });
    }
    if !broken_captions.is_empty() {
        errors.push(DataError::Captions { captions: broken_captions });
    }
    if let Some(first) = uncaptioned.first() {
        scan.captions.missing = uncaptioned.len();
        if config.caption.missing == MissingCaption::Error {
            errors.push(DataError::MissingCaptions {
                missing: uncaptioned.len(),
                found: scan.found,
                first: first.clone(),
                hint: hint_of_source.unwrap_or_else(|| caption_hint(config, &other_endings)),
            });
        }
    }
    if !too_many(scan.unreadable, scan.found) {
        errors.extend(extra_images::missing(config, &scan.images));
    }
    DataError::all(errors)?;
    let found = warnings(&scan, identities, &animated_files);
    scan.warnings.extend(found);
    scan.warnings.extend(extra_images::warnings(config, &scan.images, &extra_without_image));
    let of_captions: Vec<String> = (config.subsets.iter().enumerate())
        .flat_map(|(index, subset)| caption_warnings(subset, of_subset(&scan.images, index).iter()))
        .collect();
    scan.warnings.extend(of_captions);
    Ok(scan)
}

fn caption_hint(config: &DataConfig, other_endings: &BTreeSet<String>) -> String {
    let likely = [".caption", ".txt", ".tags", ".cap"].into_iter().find(|ending| other_endings.contains(*ending));
    match likely {
        Some(ending) => format!("files that end in `{ending}` are there: set `caption_extension = \"{ending}\"`"),
        None => {
            let endings = config.subsets[0].caption_extensions();
            let ending = endings[0].trim_start_matches('.');
            format!(
                "put the caption of `NAME.png` into `NAME.{ending}`, give the subset `class_tokens`, or set \
                 `data.caption.missing = \"empty\"` to train them on the empty prompt"
            )
        }
    }
}

/// The images of a subset; they lie side by side, subset after subset.
pub(crate) fn of_subset(images: &[Image], subset: usize) -> &[Image] {
    let start = images.partition_point(|image| image.subset < subset);
    &images[start..start + images[start..].partition_point(|image| image.subset == subset)]
}

/// Where what is found in a subset is kept for the next time. Everything that names examples is part of its name, so that two
/// configurations of one folder do not push each other out.
fn manifest_of(subset: &Subset) -> Option<Manifest> {
    let settings = format!(
        "{:?}",
        (
            (&subset.path, subset.format.name(), subset.recursive, &subset.metadata_file),
            (&subset.image_column, &subset.conditioning_image_column, &subset.extra_images),
        )
    );
    Some(Manifest::of(&manifest::folder()?, "images", settings.as_bytes()))
}

fn warnings(scan: &Scan, mut identities: Vec<u64>, animated: &[PathBuf]) -> Vec<String> {
    let mut warnings = Vec::new();
    identities.sort_unstable();
    identities.dedup();
    let doubled = scan.images.len() - identities.len();
    if doubled > 0 {
        warnings.push(format!("{doubled} images are listed more than once, by several subsets or by links"));
    }
    if scan.captions.empty > 0 {
        let first = scan.images.iter().find(|image| image.captions.iter().all(|caption| caption.text.is_empty()));
        let first = first
            .map(|image| format!(", the first is that of `{}`", image.location.path().display()))
            .unwrap_or_default();
        warnings.push(format!("{} caption files are empty{first}", scan.captions.empty));
    }
    if let Some(first) = animated.first() {
        warnings.push(format!(
            "{} files are animations, of which only the first image is read; the first is `{}`",
            animated.len(),
            first.display()
        ));
    }
    warnings
}

/// Words of a subset's captions that are not trained on as their author may think.
fn caption_warnings<'a>(subset: &Subset, images: impl Iterator<Item = &'a Image> + Clone) -> Vec<String> {
    let count = |is_meant: &dyn Fn(&str) -> bool| {
        images.clone().flat_map(|image| &image.captions).filter(|caption| is_meant(&caption.text)).count()
    };
    let folder = subset.path.display();
    let mut warnings = Vec::new();
    if !subset.enable_wildcard {
        let lines = count(&|text| text.contains('\n'));
        if lines > 0 {
            warnings.push(format!(
                "{lines} captions in `{folder}` have several lines, and only the first is used; \
                 `enable_wildcard = true` chooses among them"
            ));
        }
    }
    if let Some(mark) = subset.keep_tokens_separator.as_deref().filter(|_| !subset.changes_caption_parts()) {
        let marked = count(&|text| text.contains(mark));
        if marked > 0 {
            warnings.push(format!(
                "`{mark}` stays in the text of {marked} captions in `{folder}`; `keep_tokens_separator` needs \
                 `shuffle_caption`, `caption_tag_dropout_rate` or `token_warmup_step`"
            ));
        }
    }
    warnings
}
