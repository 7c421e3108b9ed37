//! What may not be meant in the data of a run that starts all the same.

use std::path::{Path, PathBuf};

use sdtrain_recipe::{DataConfig, Subset};

use super::{Image, Scan, of_subset};
use crate::extra_images;
use crate::image::Look;

/// What was noted of single images and is told of all of them together.
#[derive(Default)]
pub(super) struct Noted {
    /// Files with several images.
    several: Vec<PathBuf>,
    /// Files whose colour profile cannot be followed.
    ignored_profiles: Vec<PathBuf>,
    /// A number for the file behind each image.
    pub identities: Vec<u64>,
    /// Masks and the like that belong to no image.
    pub extra_without_image: Vec<PathBuf>,
}

impl Noted {
    /// Notes what is unusual about an image.
    pub fn look(&mut self, path: &Path, look: Look) {
        for (is_so, paths) in [(look.animated, &mut self.several), (look.ignores_profile, &mut self.ignored_profiles)] {
            if is_so {
                paths.push(path.to_owned());
            }
        }
    }
}

/// All warnings about what a scan found.
pub(super) fn all(config: &DataConfig, scan: &Scan, noted: Noted) -> Vec<String> {
    let mut warnings = of_images(scan, &noted);
    warnings.extend(extra_images::warnings(config, &scan.images, &noted.extra_without_image));
    for (index, subset) in config.subsets.iter().enumerate() {
        warnings.extend(of_captions(subset, of_subset(&scan.images, index).iter()));
    }
    warnings
}

fn of_images(scan: &Scan, noted: &Noted) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut identities = noted.identities.clone();
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
    for (files, what) in [
        (&noted.several, "hold several images (an animation, or pages), of which only the first is read"),
        (&noted.ignored_profiles, "have a colour profile that is broken or for other pixels, and are read without it"),
    ] {
        if let Some(first) = files.first() {
            warnings.push(format!("{} files {what}; the first is `{}`", files.len(), first.display()));
        }
    }
    warnings
}

/// Words of a subset's captions that are not trained on as their author may think.
fn of_captions<'a>(subset: &Subset, images: impl Iterator<Item = &'a Image> + Clone) -> Vec<String> {
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
