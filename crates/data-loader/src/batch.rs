//! What the trainer is handed: the plan of a batch, and the batch.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::order::Rank;

/// One visit of an image in an epoch; an image with `repeats = 3` has three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Visit {
    /// Index of the image in the sorted data set.
    pub image: usize,
    /// Which of its repeats, from 0.
    pub repeat: usize,
    /// How many epochs ago it was due: 0, or more where `leftovers = "carry"` made it wait for a full batch.
    pub epochs_ago: u64,
}

/// One batch of an epoch before anything is read: all of one bucket, so all of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPlan {
    /// Which batch of its epoch, from 0.
    pub number: usize,
    /// `(width, height)` in pixels of every image of the batch.
    pub size: (usize, usize),
    /// The examples, in order; of one of several ranks its part, which may be empty.
    pub visits: Vec<Visit>,
    /// How many examples the batch has on all ranks together.
    pub whole: usize,
}

impl BatchPlan {
    /// What one rank takes of it.
    pub fn part_of(&self, rank: Rank) -> BatchPlan {
        BatchPlan { visits: self.visits[rank.part_of(self.visits.len())].to_vec(), ..*self }
    }
}

/// What of the images of a batch is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Pixels, masks and the other images that belong to them.
    Whole,
    /// Masks alone, where latents are kept: `pixels` and `extra_images` stay empty, and images without a mask are not opened.
    Masks,
}

/// Which example this is, in words that stay the same whatever the batch order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExampleId {
    /// Index of the visit among all visits of an epoch: `image + repeat × images`. Keys every random draw, so that two
    /// repeats of an image get different noise; the first repeat's index is the image's own.
    pub index: u64,
    /// Index of the image in the sorted data set; with `flipped`, the key of everything that is computed once an image.
    pub image: usize,
    /// Whether the image is mirrored in this visit.
    pub flipped: bool,
    /// The epoch that the visit is due in, from 0; an earlier one than its batch's where `leftovers = "carry"` made it wait.
    pub epoch: u64,
    /// The image's file.
    pub path: PathBuf,
}

/// One image, ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct HostImage {
    /// `[3, height, width]`, red first, −1 to 1; empty where only the mask was asked for.
    pub pixels: Vec<f32>,
    /// `(width, height)` of what is seen.
    pub size: (usize, usize),
    /// `(width, height)` of the file, orientation applied.
    pub original_size: (usize, usize),
    /// `(left, top)` of the crop in the scaled image, mirrored where the crop is: what SDXL is told.
    pub crop_offset: (usize, usize),
    /// `[1, height, width]`: how much each place is to be learned, 0 to 1. Absent where there is no mask: all of it.
    pub mask: Option<Vec<f32>>,
    /// Images that belong to it by their column, each `[3, height, width]`, red first, −1 to 1.
    pub extra_images: BTreeMap<String, Vec<f32>>,
    /// Index of the image in the data set; another than asked for where that one could not be read.
    pub image: usize,
}

/// One batch in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    /// `[batch, 3, height, width]`, red first, −1 to 1; empty where only the masks were asked for.
    pub pixels: Vec<f32>,
    /// `(width, height)` in pixels.
    pub size: (usize, usize),
    /// One caption an example, all caption steps applied.
    pub captions: Vec<String>,
    /// Which examples these are.
    pub examples: Vec<ExampleId>,
    /// `(width, height)` of each file, orientation applied.
    pub original_sizes: Vec<(usize, usize)>,
    /// `(left, top)` of each crop in the scaled image, mirrored where the crop is.
    pub crop_offsets: Vec<(usize, usize)>,
    /// `[batch, 1, height, width]`: how much each place is to be learned, 0 to 1; 1 for examples without a mask. Absent where
    /// no example has one.
    pub mask: Option<Vec<f32>>,
    /// Images that belong to the examples by their column, each `[batch, 3, height, width]`, red first, −1 to 1.
    pub extra_images: BTreeMap<String, Vec<f32>>,
    /// Factor of each example's loss: its own weight, its subset's, and for regularization images `loss.prior_loss_weight`.
    pub loss_weights: Vec<f32>,
    /// How many examples the batch has on all ranks together.
    pub whole: usize,
}

impl HostBatch {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether it holds no example: only the part of one of several ranks does.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }
}
