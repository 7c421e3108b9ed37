//! What the subsets of a configuration hold, put together: images with their captions, and what stands in the way of a run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sdtrain_recipe::{DataConfig, MissingCaption, Subset};

use super::warnings::{self, Noted};
use super::{Image, Scan, too_many};
use crate::buckets::{Buckets, Placement};
use crate::image::Look;
use crate::looks::{Looked, Looks, look_at_all};
use crate::manifest::{self, Manifest};
use crate::source::{Listing, SourceCaption};
use crate::{DataError, ImageProblem, extra_images};

/// What was found in the subsets so far.
#[derive(Default)]
pub(super) struct Gathered {
    scan: Scan,
    /// Why a run would not start.
    pub errors: Vec<DataError>,
    unreadable: Vec<ImageProblem>,
    captions: Captions,
    noted: Noted,
}

/// What is wrong with the captions.
#[derive(Default)]
struct Captions {
    broken: Vec<ImageProblem>,
    /// Images without one.
    missing: Vec<PathBuf>,
    /// Endings that files beside the images have.
    other_endings: BTreeSet<String>,
    /// What the source of the first image without one says to do.
    hint_of_source: Option<String>,
}

/// An image that is left out.
struct LeftOut {
    reason: String,
    is_unreadable: bool,
}

impl Gathered {
    /// Adds what a subset holds.
    pub fn take(&mut self, number: usize, subset: &Subset, buckets: &Buckets, listing: Listing) {
        let scan = &mut self.scan;
        scan.found += listing.examples.len() + listing.rejected.len();
        scan.warnings.extend(listing.warnings);
        scan.dropped.extend(listing.rejected.iter().cloned());
        scan.captions.without_image.extend(listing.captions_without_image);
        self.unreadable.extend(listing.rejected);
        self.noted.extra_without_image.extend(listing.extra_images_without_image);
        self.captions.other_endings.extend(listing.other_endings);
        let broken: BTreeSet<PathBuf> = listing.broken_captions.iter().map(|problem| problem.path.clone()).collect();
        self.captions.broken.extend(listing.broken_captions);

        let Looks { looked, identities, extra_lengths, warning, refused } =
            look_at_all(&listing.examples, manifest_of(subset).as_ref());
        self.scan.warnings.extend(warning);
        self.errors.extend(refused);
        self.scan.images.reserve(listing.examples.len());
        let found = listing.examples.into_iter().zip(looked).zip(identities.into_iter().zip(extra_lengths));
        for ((example, looked), (identity, extra_lengths)) in found {
            let path = example.image.path();
            let (look, file_length, placement) = match placed(looked, buckets) {
                Ok(placed) => placed,
                Err(left_out) => {
                    self.leave_out(path.to_owned(), left_out);
                    continue;
                }
            };
            self.noted.look(path, look);
            let mut captions = example.captions;
            if !self.count_caption(&mut captions, subset) && !is_broken(path, &broken, subset) {
                // A caption that is there but broken is reported as that, not as missing as well.
                self.captions.missing.push(path.to_owned());
                let hint = &mut self.captions.hint_of_source;
                *hint = hint.take().or_else(|| listing.caption_hint.clone());
            }
            self.noted.identities.push(identity);
            let loss_weight = listing.loss_weights.get(path).copied().unwrap_or(1.0);
            self.scan.images.push(Image {
                location: example.image,
                file_length,
                subset: number,
                size: look.size,
                placement,
                captions,
                extra_images: example.extra_images,
                extra_lengths,
                loss_weight,
            });
        }
    }

    fn leave_out(&mut self, path: PathBuf, LeftOut { reason, is_unreadable }: LeftOut) {
        let problem = ImageProblem { path, reason };
        if is_unreadable {
            self.unreadable.push(problem.clone());
        }
        self.scan.dropped.push(problem);
    }

    /// Counts where the caption of an image comes from, adding its subset's `class_tokens` where it has none; false where it is
    /// without any.
    fn count_caption(&mut self, captions: &mut Vec<SourceCaption>, subset: &Subset) -> bool {
        let counts = &mut self.scan.captions;
        let extensions = subset.caption_extensions();
        for caption in captions.iter().filter(|caption| extensions.len() > 1 && !caption.text.is_empty()) {
            if let Some(extension) = extensions.get(caption.source) {
                *counts.by_extension.entry(extension.clone()).or_default() += 1;
            }
        }
        if captions.iter().any(|caption| !caption.text.is_empty()) {
            counts.from_file += 1;
        } else if !captions.is_empty() {
            counts.empty += 1;
        } else if let Some(class_tokens) = &subset.class_tokens {
            counts.from_class_tokens += 1;
            captions.push(SourceCaption { source: 0, text: class_tokens.clone() });
        }
        !captions.is_empty()
    }

    /// Everything together: what was found, and why a run would not start.
    pub fn finish(self, config: &DataConfig) -> (Scan, Vec<DataError>) {
        let Gathered { mut scan, mut errors, unreadable, captions, noted } = self;
        scan.unreadable = unreadable.len();
        let are_too_many = too_many(scan.unreadable, scan.found);
        if are_too_many {
            errors.push(DataError::TooManyUnreadable { found: scan.found, unreadable });
        } else if scan.images.is_empty() && errors.is_empty() {
            errors.push(DataError::NothingLeft { found: scan.found, dropped: scan.dropped.clone() });
        }
        scan.captions.missing = captions.missing.len();
        errors.extend(captions.errors(config, scan.found));
        if !are_too_many {
            errors.extend(extra_images::missing(config, &scan.images));
        }
        let found = warnings::all(config, &scan, noted);
        scan.warnings.extend(found);
        (scan, errors)
    }
}

impl Captions {
    fn errors(self, config: &DataConfig, found: usize) -> Vec<DataError> {
        let mut errors = Vec::new();
        if !self.broken.is_empty() {
            errors.push(DataError::Captions { captions: self.broken });
        }
        if let Some(first) = self.missing.first().filter(|_| config.caption.missing == MissingCaption::Error) {
            errors.push(DataError::MissingCaptions {
                missing: self.missing.len(),
                found,
                first: first.clone(),
                hint: self.hint_of_source.unwrap_or_else(|| caption_hint(config, &self.other_endings)),
            });
        }
        errors
    }
}

/// Where an image goes, or why it is left out.
fn placed(looked: Looked, buckets: &Buckets) -> Result<(Look, u64, Placement), LeftOut> {
    let (look, file_length) = looked.map_err(|reason| LeftOut { reason, is_unreadable: true })?;
    let placement = buckets.place(look.size).map_err(|reason| LeftOut { reason, is_unreadable: false })?;
    Ok((look, file_length, placement))
}

/// Whether a caption of this image is among the broken ones.
fn is_broken(image: &Path, broken: &BTreeSet<PathBuf>, subset: &Subset) -> bool {
    let file = |extension: &String| image.with_extension(extension.trim_start_matches('.'));
    // A caption of a table goes by the name of its image.
    broken.contains(image) || subset.caption_extensions().iter().any(|extension| broken.contains(&file(extension)))
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
