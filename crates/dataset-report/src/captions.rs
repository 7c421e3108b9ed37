//! What the captions of a data set are like: where they come from, how long they are, what they say again and again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use sdtrain_data_loader::{TokenWindow, examine};
use sdtrain_recipe::Subset;
use serde::Serialize;

use crate::inspection::{DroppedImage, Spread};
use crate::survey::{ImageFacts, Survey};

/// At most so many tags, repeated captions and long captions are named.
const NAMED: usize = 100;
/// What the captions of a data set are like. Only images that a run would use are counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CaptionReport {
    /// Images whose caption was written for them, in a file or a table.
    pub from_file: usize,
    /// Of these, images by the endings of their caption files, where a subset has several.
    pub by_extension: BTreeMap<String, usize>,
    /// Images without one that take `class_tokens`.
    pub from_class_tokens: usize,
    /// Images with an empty caption.
    pub empty: usize,
    /// Images without any caption.
    pub missing: usize,
    /// The first hundred images without any caption.
    pub missing_images: Vec<String>,
    /// Caption files that belong to no image.
    pub without_image: Vec<String>,
    /// Caption files that cannot be read.
    pub broken: Vec<DroppedImage>,
    /// Different captions, empty ones left out.
    pub distinct: usize,
    /// Captions that several images share, most frequent first, at most a hundred. Those of `class_tokens` are not counted.
    pub repeated: Vec<RepeatedCaption>,
    /// How long captions are for the model, prefix and suffix included.
    pub tokens: TokenCounts,
    /// Different tags.
    pub distinct_tags: usize,
    /// The most frequent tags, at most a hundred: the parts of captions between `caption_separator`.
    pub tags: Vec<TagCount>,
}

/// A caption that several images share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepeatedCaption {
    /// The caption.
    pub caption: String,
    /// Images that have it.
    pub images: usize,
    /// The first of them.
    pub first: String,
}

/// How long captions are in tokens, marks not counted: of an image with a choice of captions the longest.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TokenCounts {
    /// Tokens that the text encoder reads; the rest of a longer caption is cut off.
    pub window: usize,
    /// Fewest, median and most tokens of a caption that is not empty.
    pub spread: Option<Spread>,
    /// Captions longer than the window.
    pub over_long: usize,
    /// The longest of those, at most a hundred.
    pub over_long_captions: Vec<LongCaption>,
    /// Captions by length: `histogram[n]` have 10·n to 10·n + 9 tokens; the last entry holds all of 300 and more.
    pub histogram: Vec<usize>,
}

/// A caption that is cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LongCaption {
    /// The image.
    pub path: String,
    /// Tokens of its caption.
    pub tokens: usize,
}

/// How often a tag occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TagCount {
    /// The tag, without blanks around it.
    pub tag: String,
    /// Images that have it.
    pub images: usize,
}

impl CaptionReport {
    /// Looks at the captions of the images that a run would use.
    pub(crate) fn of(survey: &Survey, used: &[&ImageFacts], window: TokenWindow<'_>) -> CaptionReport {
        let mut report = CaptionReport {
            without_image: survey.captions_without_image.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
            broken: survey.broken_captions.iter().map(DroppedImage::from).collect(),
            tokens: TokenCounts { window: window.limit, histogram: vec![0; 31], ..TokenCounts::default() },
            ..CaptionReport::default()
        };
        let broken: BTreeSet<&Path> = survey.broken_captions.iter().map(|p| p.path.as_path()).collect();
        let mut repeated: HashMap<String, (usize, &ImageFacts)> = HashMap::new();
        let mut tags: HashMap<String, usize> = HashMap::new();
        let mut lengths = Vec::new();
        for image in used {
            let subset = &survey.subsets[image.subset];
            let mut captions = image.captions.clone();
            let extensions = subset.caption_extensions();
            for caption in captions.iter().filter(|caption| extensions.len() > 1 && !caption.text.is_empty()) {
                if let Some(extension) = extensions.get(caption.source) {
                    *report.by_extension.entry(extension.clone()).or_default() += 1;
                }
            }
            let is_own = captions.iter().any(|caption| !caption.text.is_empty());
            match (is_own, captions.is_empty(), &subset.class_tokens) {
                (true, ..) => report.from_file += 1,
                (false, false, _) => report.empty += 1,
                (false, true, Some(class_tokens)) => {
                    report.from_class_tokens += 1;
                    captions.push(sdtrain_data_loader::SourceCaption { source: 0, text: class_tokens.clone() });
                }
                // A caption that is there but cannot be read is listed as that.
                (false, true, None) if is_broken(image, subset, &broken) => {}
                (false, true, None) => {
                    report.missing += 1;
                    if report.missing_images.len() < NAMED {
                        report.missing_images.push(image.name());
                    }
                }
            }
            let longest = examine::longest_captions(&captions, subset);
            let longest = longest.iter().filter(|caption| !caption.is_empty());
            if let Some(tokens) = longest.map(|caption| window.tokens_of(caption)).max() {
                lengths.push(tokens as f64);
                report.tokens.histogram[(tokens / 10).min(30)] += 1;
                if tokens > window.limit {
                    report.tokens.over_long += 1;
                    report.tokens.over_long_captions.push(LongCaption { path: image.name(), tokens });
                }
            }
            let caption = examine::plain_caption(&captions, subset);
            if caption.is_empty() {
                continue;
            }
            for tag in tags_of(&caption, &subset.caption_separator) {
                *tags.entry(tag.to_owned()).or_default() += 1;
            }
            if is_own {
                repeated.entry(caption).or_insert((0, image)).0 += 1;
            }
        }
        report.tokens.spread = Spread::of(lengths);
        report.tokens.over_long_captions.sort_by(|a, b| b.tokens.cmp(&a.tokens).then_with(|| a.path.cmp(&b.path)));
        report.tokens.over_long_captions.truncate(NAMED);
        report.distinct = repeated.len();
        let repeated = repeated.into_iter().filter(|(_, (images, _))| *images > 1);
        report.repeated = repeated
            .map(|(caption, (images, first))| RepeatedCaption { caption, images, first: first.name() })
            .collect();
        report.repeated.sort_by(|a, b| b.images.cmp(&a.images).then_with(|| a.caption.cmp(&b.caption)));
        report.repeated.truncate(NAMED);
        report.distinct_tags = tags.len();
        report.tags = tags.into_iter().map(|(tag, images)| TagCount { tag, images }).collect();
        report.tags.sort_by(|a, b| b.images.cmp(&a.images).then_with(|| a.tag.cmp(&b.tag)));
        report.tags.truncate(NAMED);
        report
    }
}

/// Whether one of the image's caption files is there but cannot be read.
fn is_broken(image: &ImageFacts, subset: &Subset, broken: &BTreeSet<&Path>) -> bool {
    let file = |extension: &String| image.location.path().with_extension(extension.trim_start_matches('.'));
    subset.caption_extensions().iter().any(|extension| broken.contains(file(extension).as_path()))
}

/// The parts of a caption, each once.
fn tags_of<'a>(caption: &'a str, separator: &str) -> BTreeSet<&'a str> {
    let whole = [caption];
    let parts: Vec<&str> = match separator.is_empty() {
        true => whole.to_vec(),
        false => caption.split(separator).collect(),
    };
    parts.into_iter().map(str::trim).filter(|tag| !tag.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_counts_once_an_image() {
        let tags: Vec<&str> = tags_of(" a, b,,a ,c d", ",").into_iter().collect();
        assert_eq!(tags, ["a", "b", "c d"]);
        assert_eq!(tags_of("a, b", "").len(), 1);
    }
}
