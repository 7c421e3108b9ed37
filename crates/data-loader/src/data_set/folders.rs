//! What the subsets of a data set are called and hold, with the tags of their captions: what a product says it was trained on.

use std::collections::BTreeMap;
use std::path::Path;

use sdtrain_recipe::Subset;

use super::DataSet;
use crate::caption;
use crate::scan::of_subset;

/// A subset as a product names it.
#[derive(Clone, Debug, PartialEq)]
pub struct FolderTags {
    /// The name of its folder, or of its file, without where that lies. A second one of a name has ` (2)` behind it.
    pub name: String,
    /// How often each of its images is seen in an epoch, as the configuration says.
    pub repeats: f64,
    /// How many images it has.
    pub images: usize,
    /// Whether these are regularization images.
    pub is_regularization: bool,
    /// How often each tag is in its captions, repeats not counted: what stands between separators, in lower case.
    pub tags: BTreeMap<String, usize>,
}

impl DataSet {
    /// Every subset that has images, with the tags of its captions as they are written: no prefix, no suffix, nothing dropped.
    pub fn folders(&self) -> Vec<FolderTags> {
        let mut folders: Vec<FolderTags> = Vec::with_capacity(self.subsets.len());
        for (index, subset) in self.subsets.iter().enumerate() {
            let images = of_subset(&self.images, index);
            if images.is_empty() {
                continue;
            }
            let mut tags = BTreeMap::new();
            for image in images {
                for line in caption::as_written(&image.captions, subset) {
                    count(line, subset, &mut tags);
                }
            }
            folders.push(FolderTags {
                name: told_apart(&name_of(&subset.path), &folders),
                repeats: subset.repeats,
                images: images.len(),
                is_regularization: subset.is_regularization,
                tags,
            });
        }
        folders
    }
}

/// Counts as `set_tag_frequency` of kohya's sd-scripts does (library/train_util.py), which knows no separator but the comma.
fn count(line: &str, subset: &Subset, tags: &mut BTreeMap<String, usize>) {
    // A configuration has no empty separator; whoever makes a subset himself may.
    let separator = if subset.caption_separator.is_empty() { "," } else { subset.caption_separator.as_str() };
    for tag in line.split(separator).map(str::trim).filter(|tag| !tag.is_empty()) {
        *tags.entry(tag.to_lowercase()).or_default() += 1;
    }
}

/// The last part of a path; of one that ends in `..`, that of the folder it leads to.
fn name_of(path: &Path) -> String {
    let led_to = || path.canonicalize().ok()?.file_name().map(ToOwned::to_owned);
    let name = path.file_name().map(ToOwned::to_owned).or_else(led_to);
    name.map_or_else(|| "data".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn told_apart(name: &str, others: &[FolderTags]) -> String {
    let is_taken = |own: &str| others.iter().any(|other| other.name == own);
    let (mut own, mut number) = (name.to_owned(), 2);
    while is_taken(&own) {
        own = format!("{name} ({number})");
        number += 1;
    }
    own
}
