//! Which examples come next: the batches of an epoch, with pixels only where somebody looks at them.

use crate::error::Result;
use sdtrain_data_loader::{BatchPlan, Contents, DataSet, ExampleId, HostBatch, Prefetcher};
use sdtrain_diffusion::ExampleKey;
use sdtrain_model::PictureSizes;
use std::sync::Arc;

/// One batch before it goes to the device.
#[derive(Debug)]
pub struct Batch {
    /// `(width, height)` in pixels.
    pub size: (usize, usize),
    /// Which examples.
    pub examples: Vec<ExampleId>,
    /// One caption an example.
    pub captions: Vec<String>,
    /// Factor of each example's loss.
    pub loss_weights: Vec<f32>,
    /// Where each image comes from, for denoisers that are told.
    pub sizes: Vec<PictureSizes>,
    /// `[batch, 3, height, width]`; absent where latents are cached.
    pub pixels: Option<Vec<f32>>,
    /// `[batch, 1, height, width]` in pixels, 0 to 1; absent where no example has a mask, or nobody asked for them.
    pub mask: Option<Vec<f32>>,
    /// How many examples the batch has on all ranks together.
    pub whole: usize,
    /// Which part of its step this is, counted over all ranks.
    pub place: usize,
}

impl Batch {
    /// The coordinates of every random draw for these examples.
    pub fn keys(&self) -> Vec<ExampleKey> {
        self.examples.iter().map(|e| ExampleKey { epoch: e.epoch, example: e.index }).collect()
    }
}

impl From<HostBatch> for Batch {
    fn from(batch: HostBatch) -> Batch {
        let pairs = batch.original_sizes.into_iter().zip(batch.crop_offsets);
        let sizes = pairs.map(|(original, crop_offset)| PictureSizes { original, crop_offset, target: batch.size });
        Batch {
            sizes: sizes.collect(),
            size: batch.size,
            examples: batch.examples,
            captions: batch.captions,
            loss_weights: batch.loss_weights,
            pixels: (!batch.pixels.is_empty()).then_some(batch.pixels),
            mask: batch.mask,
            whole: batch.whole,
            place: 0,
        }
    }
}

/// The endless row of batches from one point on.
pub enum Batches {
    /// Images, or their masks alone, are read ahead by other threads.
    Read(Prefetcher),
    /// Only names and captions: latents come from a cache.
    NamesAlone { data: Arc<DataSet>, epoch: u64, next: usize, plan: Vec<BatchPlan> },
}

impl Batches {
    /// From batch `start` of `epoch` on; `contents` is what of the images somebody looks at.
    pub fn new(data: &Arc<DataSet>, contents: Option<Contents>, epoch: u64, start: usize, workers: usize) -> Batches {
        match contents {
            Some(contents) => Batches::Read(data.clone().prefetch_only(contents, epoch, start, workers)),
            None => {
                // A batch has a part for each rank that this process plays.
                let next = start * data.ranks().len();
                Batches::NamesAlone { data: data.clone(), epoch, next, plan: data.epoch_plan(epoch) }
            }
        }
    }

    /// The next batch.
    pub fn next(&mut self) -> Result<Batch> {
        match self {
            Batches::Read(prefetcher) => {
                let batch = prefetcher.next().expect("a row of batches ends only with an error")?;
                Ok(batch.into())
            }
            Batches::NamesAlone { data, epoch, next, plan } => {
                // An epoch of few images may be without a batch; the first of all is not.
                while *next >= plan.len() {
                    (*epoch, *next) = (*epoch + 1, 0);
                    *plan = data.epoch_plan(*epoch);
                }
                let batch = &plan[*next];
                *next += 1;
                let examples = data.examples_of(batch, *epoch)?;
                let captions = data.captions_of(batch, *epoch)?;
                let loss_weights = examples.iter().map(|example| data.loss_weight(example.image)).collect();
                let size_of = |example: &ExampleId| {
                    let view = data.still_view(example.image);
                    let crop_offset = view.crop_offset(example.flipped);
                    PictureSizes { original: view.original_size, crop_offset, target: view.bucket }
                };
                let sizes = examples.iter().map(size_of).collect();
                Ok(Batch {
                    size: batch.size,
                    examples,
                    captions,
                    loss_weights,
                    sizes,
                    pixels: None,
                    mask: None,
                    whole: batch.whole,
                    place: 0,
                })
            }
        }
    }
}
