//! Latents of every image, encoded once and kept in memory or on disk.

mod disk;
mod encode;
mod encoder_identity;

pub use disk::DiskLatents;

use crate::Progress;
use crate::error::Result;
use encode::{Moments, encode};
use sdtrain_data_loader::DataSet;
use sdtrain_model::StableDiffusion;
use sdtrain_recipe::DataConfig;
use std::collections::HashMap;
use std::ops::Deref;
use tch::Tensor;

/// Mean and log-variance of each image's latents, unscaled. Keeping both, not a draw, makes cached training equal to
/// uncached training: the draw is made anew at every visit.
///
/// `D` is the data set, shared or borrowed.
pub struct LatentCache<D> {
    store: Store<D>,
    scaling_factor: f64,
}

enum Store<D> {
    /// By image and whether it is mirrored.
    Memory(HashMap<(usize, bool), Moments>),
    Disk(DiskLatents<D>),
}

impl<D: Deref<Target = DataSet>> LatentCache<D> {
    /// Encodes every image of `data` that is not kept in `data.cache_dir`, mirrored ones too where visits are mirrored.
    /// `what` they are goes into the message on what is there.
    pub fn fill(
        model: &StableDiffusion,
        data: D,
        config: &DataConfig,
        what: &'static str,
        progress: Progress,
    ) -> Result<LatentCache<D>> {
        let scaling_factor = model.vae.config().scaling_factor;
        let store = match &config.cache_dir {
            None => Store::Memory(in_memory(model, &data, config.workers, progress)?),
            Some(folder) => {
                let (mut disk, survey) = DiskLatents::open(folder, model, data, what)?;
                survey.tell("latents", folder);
                disk.fill(model, &survey, config.workers, progress)?;
                Store::Disk(disk)
            }
        };
        Ok(LatentCache { store, scaling_factor })
    }

    /// Whether an image could be read, so that it has latents.
    pub fn has(&self, image: usize) -> bool {
        match &self.store {
            Store::Memory(moments) => moments.contains_key(&(image, false)),
            Store::Disk(disk) => disk.has(image),
        }
    }

    /// Scaled latents of images, mirrored or not, drawn with `noise`; f32 on the host, `[images, channels, height, width]`.
    /// Every image has some, as [`LatentCache::has`] says, and all are of one size.
    ///
    /// Those on disk are read now; one that is gone or damaged by now is encoded again.
    pub fn latents(&self, model: &StableDiffusion, images: &[(usize, bool)], noise: &Tensor) -> Result<Tensor> {
        let moments = images
            .iter()
            .map(|&(image, mirrored)| match &self.store {
                Store::Memory(moments) => Ok(moments[&(image, mirrored)].shallow_clone()),
                Store::Disk(disk) => disk.moments(model, image, mirrored),
            })
            .collect::<Result<Vec<Moments>>>()?;
        let stacked = |pick: fn(&Moments) -> &Tensor| {
            let tensors: Vec<&Tensor> = moments.iter().map(pick).collect();
            Tensor::f_stack(&tensors, 0)
        };
        let (mean, logvar) = (stacked(|moments| &moments.mean)?, stacked(|moments| &moments.logvar)?);
        Ok((mean + (logvar * 0.5).exp() * noise) * self.scaling_factor)
    }
}

fn in_memory(
    model: &StableDiffusion,
    data: &DataSet,
    workers: usize,
    progress: Progress,
) -> Result<HashMap<(usize, bool), Moments>> {
    let images: Vec<usize> = (0..data.images()).collect();
    let mut all = HashMap::new();
    let mut done = 0;
    encode(model, data, &images, false, workers, &mut |image, encoded| {
        // In the place of an unreadable image another one is visited, which has its own turn here.
        if let Some(encoded) = encoded {
            all.insert((image, false), encoded.plain);
            all.extend(encoded.mirrored.map(|mirrored| ((image, true), mirrored)));
        }
        done += 1;
        progress(done, images.len());
        Ok(())
    })?;
    Ok(all)
}
