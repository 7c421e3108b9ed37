//! How the images of a subset are sized and put together: its own settings, or those of `[data]`.

use crate::{BucketingConfig, DataConfig, Resolution, Subset};

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
