//! What was found in a data set, for `check` and the first lines of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::ImageProblem;
use crate::error::SHOWN;
use crate::order::Order;

/// One bucket that holds images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketCount {
    /// `(width, height)` in pixels.
    pub size: (usize, usize),
    /// Images in it.
    pub images: usize,
    /// Visits of the first epoch: images with their repeats.
    pub visits: usize,
    /// Batches of the first epoch.
    pub batches: usize,
    /// Images of a full batch.
    pub batch_size: usize,
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
    /// Images that are trained on with a mask, a control image or the like, by its column.
    pub extra_images: BTreeMap<String, usize>,
    /// Regularization images among those that are trained on.
    pub regularization: usize,
    /// Visits of those, of the first epoch.
    pub regularization_visits: usize,
    /// Regularization images that are not needed, and not among those that are kept.
    pub unused: usize,
    /// Visits of the first epoch.
    pub visits_per_epoch: usize,
    /// The fewest and the most visits of one of the first epochs; they differ where repeats are not whole.
    pub visits_in_epochs: (usize, usize),
    /// Visits of the first epoch that fill no batch: left out of it with `leftovers = "drop"`, waiting for the next one with
    /// `"carry"`.
    pub left_over: usize,
    /// Whether those wait.
    pub carries: bool,
    /// Batches of the first epoch.
    pub batches_per_epoch: usize,
    /// The fewest and the most batches of one of the first epochs.
    pub batches_in_epochs: (usize, usize),
    /// Things that may not be meant.
    pub warnings: Vec<String>,
}

impl DataReport {
    /// Counts visits and batches of the first epochs.
    pub(crate) fn count_epochs(&mut self, order: &Order) {
        /// So many are enough to see fractions and carried images come round, and few enough to be counted at once.
        const EPOCHS: u64 = 20;
        let epochs = if order.is_the_same_length_every_epoch() { 1 } else { EPOCHS };
        let span = |counts: Vec<usize>| {
            let least = counts.iter().copied().min().unwrap_or(0);
            (least, counts.into_iter().max().unwrap_or(0))
        };
        self.visits_in_epochs =
            span((0..epochs).map(|epoch| order.visits_by_bucket(epoch).into_iter().sum()).collect());
        self.batches_in_epochs = span((0..epochs).map(|epoch| order.batches(epoch)).collect());
        let mut images = vec![0; order.buckets().len()];
        for image in order.images() {
            images[image.bucket] += 1;
        }
        let counts = order.visits_by_bucket(0).into_iter().zip(order.batches_by_bucket(0)).zip(images);
        let buckets = order.buckets().iter().zip(counts).map(|(bucket, ((visits, batches), images))| BucketCount {
            size: bucket.size,
            images,
            visits,
            batches,
            batch_size: bucket.batch_size,
        });
        self.buckets = buckets.collect();
        self.visits_per_epoch = self.buckets.iter().map(|bucket| bucket.visits).sum();
        self.batches_per_epoch = self.buckets.iter().map(|bucket| bucket.batches).sum();
        self.left_over = order.left_over();
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} found, {} kept", counted(self.found, "image"), self.kept)?;
        if self.regularization > 0 {
            write!(f, " ({} of them for regularization)", self.regularization)?;
        }
        f.write_str(&epoch_in_words(self.kept, self.visits_in_epochs, self.batches_in_epochs))?;
        f.write_str(&left_over_in_words(self.left_over, self.carries))?;
        let sizes_differ = self.buckets.iter().any(|bucket| bucket.batch_size != self.buckets[0].batch_size);
        for bucket in &self.buckets {
            let (width, height) = bucket.size;
            let (images, batches) = (counted(bucket.images, "image"), counted(bucket.batches, "batch"));
            write!(f, "\n  bucket {width} × {height}: {images}, {batches}")?;
            if sizes_differ {
                write!(f, " of {}", bucket.batch_size)?;
            }
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
        if !self.extra_images.is_empty() {
            write!(f, "\n  extra images: {}", extra_images_in_words(&self.extra_images))?;
        }
        for problem in self.dropped.iter().take(SHOWN) {
            write!(f, "\n  left out: {problem}")?;
        }
        if self.dropped.len() > SHOWN {
            let more = self.dropped.len() - SHOWN;
            write!(f, "\n  left out: … and {more} more; `sdtrain dataset inspect --json` lists them all")?;
        }
        for warning in &self.warnings {
            write!(f, "\n  warning: {warning}")?;
        }
        Ok(())
    }
}

/// `1 image`, `2 batches`.
pub fn counted(number: usize, thing: &str) -> String {
    let ending = match (number, thing.ends_with("ch")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{number} {thing}{ending}")
}

/// `, 8 with repeats; 2 to 3 batches an epoch`: the fewest and the most visits and batches of an epoch.
pub fn epoch_in_words(kept: usize, visits: (usize, usize), batches: (usize, usize)) -> String {
    let span = |(least, most): (usize, usize)| match least == most {
        true => least.to_string(),
        false => format!("{least} to {most}"),
    };
    let repeats = if visits == (kept, kept) { String::new() } else { format!(", {} with repeats", span(visits)) };
    let plural = if batches == (1, 1) { "batch" } else { "batches" };
    format!("{repeats}; {} {plural} an epoch", span(batches))
}

/// What becomes of images that fill no batch; nothing where there are none.
pub fn left_over_in_words(left_over: usize, carries: bool) -> String {
    let end = if carries { "waiting for the next epoch" } else { "left out" };
    match left_over {
        0 => String::new(),
        _ => format!(", {} of the first in no batch, {end}", counted(left_over, "image")),
    }
}

/// ``12 `control`, 3 `mask` ``: of how many images one of each column belongs to them.
pub fn extra_images_in_words(columns: &BTreeMap<String, usize>) -> String {
    columns.iter().map(|(column, images)| format!("{images} `{column}`")).collect::<Vec<_>>().join(", ")
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
            buckets: vec![BucketCount { size: (64, 96), images: 4, visits: 8, batches: 2, batch_size: 3 }],
            captions: CaptionCounts {
                from_file: 3,
                by_extension: BTreeMap::from([(".long".to_owned(), 2), (".txt".to_owned(), 3)]),
                missing: 1,
                ..CaptionCounts::default()
            },
            extra_images: BTreeMap::from([("control".to_owned(), 4), ("mask".to_owned(), 1)]),
            regularization: 1,
            regularization_visits: 4,
            unused: 0,
            visits_per_epoch: 8,
            visits_in_epochs: (8, 8),
            left_over: 2,
            carries: false,
            batches_per_epoch: 2,
            batches_in_epochs: (2, 2),
            warnings: vec!["look here".to_owned()],
        };
        let expected = "5 images found, 4 kept (1 of them for regularization), 8 with repeats; 2 batches an epoch, \
            2 images of the first in no batch, left out\
            \n  bucket 64 × 96: 4 images, 2 batches\
            \n  captions: 3 from files (2 `.long`, 3 `.txt`), 1 missing, trained on the empty prompt\
            \n  extra images: 4 `control`, 1 `mask`\
            \n  left out: `a.png`: is an empty file\
            \n  warning: look here";
        assert_eq!(report.to_string(), expected);

        let many = DataReport { dropped: vec![report.dropped[0].clone(); SHOWN + 3], ..report.clone() };
        assert_eq!(many.to_string().matches("left out: `a.png`").count(), SHOWN);
        assert!(many.to_string().contains("\n  left out: … and 3 more; "), "{many}");

        let other = BucketCount { size: (128, 128), images: 1, visits: 1, batches: 1, batch_size: 1 };
        let report = DataReport {
            buckets: vec![report.buckets[0].clone(), other],
            visits_in_epochs: (8, 9),
            batches_in_epochs: (2, 3),
            carries: true,
            ..report
        };
        let first = "5 images found, 4 kept (1 of them for regularization), 8 to 9 with repeats; 2 to 3 batches an epoch, \
            2 images of the first in no batch, waiting for the next epoch\
            \n  bucket 64 × 96: 4 images, 2 batches of 3\n  bucket 128 × 128: 1 image, 1 batch of 1\n";
        assert!(report.to_string().starts_with(first), "{report}");
    }
}
