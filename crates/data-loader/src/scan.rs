//! Looks through the subsets of a configuration: every image's size, caption and bucket, nothing decoded; all problems at once.

mod gather;
mod warnings;

use std::collections::BTreeMap;
use std::path::Path;

use sdtrain_recipe::{DataConfig, Subset};

use crate::buckets::{Buckets, Placement, Size};
use crate::report::CaptionCounts;
use crate::source::{self, ImageLocation, Listing, SourceCaption};
use crate::{DataError, ImageProblem};
use gather::Gathered;

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
    /// The lengths of these, in their order; none of one that is no file of its own.
    pub extra_lengths: Box<[Option<u64>]>,
    /// What a table says its loss is multiplied by.
    pub loss_weight: f64,
}

impl Image {
    /// Its own file, and those of what belongs to it.
    pub fn locations(&self) -> impl Iterator<Item = &ImageLocation> + Clone {
        std::iter::once(&self.location).chain(self.extra_images.values())
    }

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

/// Looks at every subset of the configuration; `buckets` are those of each subset. What keeps a run from starting is in the second
/// place, and what there is to say of the rest is found all the same.
pub(crate) fn scan(config: &DataConfig, buckets: &[Buckets]) -> (Scan, Vec<DataError>) {
    if config.subsets.is_empty() {
        return (Scan::default(), vec![DataError::NoSubsets]);
    }
    let mut gathered = Gathered::default();
    for (index, subset) in config.subsets.iter().enumerate() {
        match list(subset) {
            Ok(listing) => gathered.take(index, subset, &buckets[index], listing),
            Err(errors) => gathered.errors.extend(errors),
        }
    }
    gathered.finish(config)
}

/// What a subset holds, where each of its keys is read.
fn list(subset: &Subset) -> Result<Listing, Vec<DataError>> {
    let unread = source::unread(subset);
    match unread.is_empty() {
        true => source::open_source(subset).list().map_err(|error| vec![error]),
        false => Err(unread),
    }
}

/// The images of a subset; they lie side by side, subset after subset.
pub(crate) fn of_subset(images: &[Image], subset: usize) -> &[Image] {
    let start = images.partition_point(|image| image.subset < subset);
    &images[start..start + images[start..].partition_point(|image| image.subset == subset)]
}
