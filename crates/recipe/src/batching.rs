//! How the images of a subset are sized and put together: its own settings, or those of `[data]`.

use crate::{BucketingConfig, DataConfig, MASK_COLUMN, Resolution, Subset};

/// What decides which images may share a batch. Subsets that are alike in it are one group; batches never mix groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Batching {
    /// Size of the images, or the area that buckets keep to.
    pub resolution: Resolution,
    /// Images a batch.
    pub batch_size: usize,
    /// Aspect-ratio buckets.
    pub bucketing: BucketingConfig,
}

impl DataConfig {
    /// The settings that hold where a subset has none of its own.
    pub fn own_batching(&self) -> Batching {
        Batching { resolution: self.resolution, batch_size: self.batch_size, bucketing: self.bucketing.clone() }
    }

    /// Images besides masks come with their batches, but no method uses them yet: `(message, hint)` where some are set.
    pub fn check_images_are_used(&self) -> Result<(), (String, String)> {
        let mut keys = Vec::new();
        for (index, subset) in self.subsets.iter().enumerate() {
            let others = subset.extra_images.iter().enumerate().filter(|(_, extra)| extra.column != MASK_COLUMN);
            keys.extend(others.map(|(extra, _)| format!("`data.subsets.{index}.extra_images.{extra}`")));
            if subset.conditioning_image_column.is_some() {
                keys.push(format!("`data.subsets.{index}.conditioning_image_column`"));
            }
        }
        match keys.is_empty() {
            true => Ok(()),
            false => Err((
                format!(
                    "{}: control images and pairs of images are read and inspected, but there is no method yet that trains \
                     on them, as ControlNet and InstructPix2Pix do",
                    keys.join(", ")
                ),
                "remove the keys to train on the images and their captions alone; a loss mask has `column = \"mask\"`"
                    .to_owned(),
            )),
        }
    }

    /// The settings that hold for a subset.
    pub fn batching(&self, subset: &Subset) -> Batching {
        Batching {
            resolution: subset.resolution.unwrap_or(self.resolution),
            batch_size: subset.batch_size.unwrap_or(self.batch_size),
            bucketing: subset.bucketing.as_ref().unwrap_or(&self.bucketing).clone(),
        }
    }

    /// The settings of each group of subsets, in the order of the first subset of each; those of `[data]` where there is none.
    pub fn batchings(&self) -> Vec<Batching> {
        let mut distinct: Vec<Batching> = Vec::new();
        for subset in &self.subsets {
            let batching = self.batching(subset);
            if !distinct.contains(&batching) {
                distinct.push(batching);
            }
        }
        if distinct.is_empty() {
            distinct.push(self.own_batching());
        }
        distinct
    }
}
