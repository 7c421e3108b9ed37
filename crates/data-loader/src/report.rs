//! What was found in a data set, for `check` and the first lines of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::ImageProblem;

/// One bucket that holds images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketCount {
    /// `(width, height)` in pixels.
    pub size: (usize, usize),
    /// Images in it.
    pub images: usize,
    /// Visits an epoch: images with their repeats.
    pub visits: usize,
    /// Batches an epoch.
    pub batches: usize,
}

/// Where captions come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptionCounts {
    /// Images with a caption file that holds text.
    pub from_file: usize,
    /// Of these, images by the endings of their caption files, where a subset has several.
    pub by_extension: BTreeMap<String, usize>,
    /// Images without a file that take `class_tokens`.
    pub from_class_tokens: usize,
    /// Images with an empty caption file; they are trained on the empty prompt.
    pub empty: usize,
    /// Images without any caption that are trained on the empty prompt, as `data.caption.missing = "empty"` allows.
    pub missing: usize,
    /// Caption files that belong to no image.
    pub without_image: Vec<PathBuf>,
}

/// Everything there is to say about a data set before training on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataReport {
    /// Images found in all folders.
    pub found: usize,
    /// Images that are trained on.
    pub kept: usize,
    /// Images left out, with the reason.
    pub dropped: Vec<ImageProblem>,
    /// How many of those cannot be read; the others are too small.
    pub unreadable: usize,
    /// Buckets that hold images, sorted by size.
    pub buckets: Vec<BucketCount>,
    /// Where captions come from.
    pub captions: CaptionCounts,
    /// Visits an epoch.
    pub visits_per_epoch: usize,
    /// Visits of each epoch that fill no batch and wait for the next one (`leftovers = "drop"`).
    pub left_over: usize,
    /// Batches an epoch.
    pub batches_per_epoch: usize,
    /// Things that may not be meant.
    pub warnings: Vec<String>,
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images found, {} kept", self.found, self.kept)?;
        if self.visits_per_epoch != self.kept {
            write!(f, ", {} with repeats", self.visits_per_epoch)?;
        }
        write!(f, "; {} batches an epoch", self.batches_per_epoch)?;
        if self.left_over > 0 {
            write!(f, ", {} images an epoch fill no batch and wait", self.left_over)?;
        }
        for bucket in &self.buckets {
            let (width, height) = bucket.size;
            write!(f, "\n  bucket {width} × {height}: {} images, {} batches", bucket.images, bucket.batches)?;
        }
        let captions = &self.captions;
        write!(f, "\n  captions: {} from files", captions.from_file)?;
        if !captions.by_extension.is_empty() {
            let counts: Vec<String> =
                captions.by_extension.iter().map(|(ending, n)| format!("{n} `{ending}`")).collect();
            write!(f, " ({})", counts.join(", "))?;
        }
        for (count, what) in [
            (captions.from_class_tokens, "from `class_tokens`"),
            (captions.empty, "empty files"),
            (captions.missing, "missing, trained on the empty prompt"),
            (captions.without_image.len(), "without an image"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        for problem in &self.dropped {
            write!(f, "\n  left out: {problem}")?;
        }
        for warning in &self.warnings {
            write!(f, "\n  warning: {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_everything_once() {
        let report = DataReport {
            found: 5,
            kept: 4,
            dropped: vec![ImageProblem { path: "a.png".into(), reason: "is an empty file".to_owned() }],
            unreadable: 1,
            buckets: vec![BucketCount { size: (64, 96), images: 4, visits: 8, batches: 2 }],
            captions: CaptionCounts {
                from_file: 3,
                by_extension: BTreeMap::from([(".long".to_owned(), 2), (".txt".to_owned(), 3)]),
                missing: 1,
                ..CaptionCounts::default()
            },
            visits_per_epoch: 8,
            left_over: 2,
            batches_per_epoch: 2,
            warnings: vec!["look here".to_owned()],
        };
        let expected = "5 images found, 4 kept, 8 with repeats; 2 batches an epoch, 2 images an epoch fill no batch and wait\
            \n  bucket 64 × 96: 4 images, 2 batches\
            \n  captions: 3 from files (2 `.long`, 3 `.txt`), 1 missing, trained on the empty prompt\
            \n  left out: `a.png`: is an empty file\
            \n  warning: look here";
        assert_eq!(report.to_string(), expected);
    }
}
