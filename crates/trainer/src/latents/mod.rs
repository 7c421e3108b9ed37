//! Latents of every image, encoded once before the first step and kept in memory or on disk.

mod disk;
mod encode;
mod encoder_identity;
mod prefill;

pub use prefill::{CacheReport, fill_latent_cache};

use crate::error::Result;
use disk::DiskLatents;
use encode::{Moments, encode};
use sdtrain_data_loader::{DataSet, ExampleId};
use sdtrain_model::StableDiffusion;
use sdtrain_recipe::DataConfig;
use std::collections::HashMap;
use std::sync::Arc;
use tch::Tensor;

/// Mean and log-variance of each image's latents, unscaled. Keeping both, not a draw, makes cached training equal to
/// uncached training: the draw is made anew at every visit.
pub struct LatentCache {
    store: Store,
    scaling_factor: f64,
}

enum Store {
    /// By image and whether it is mirrored.
    Memory(HashMap<(usize, bool), Moments>),
    Disk(DiskLatents),
}

impl LatentCache {
    /// Encodes every image of `data` that is not kept in `data.cache_dir`, mirrored ones too where visits are mirrored.
    /// `progress(done, total)`.
    pub fn fill(
        model: &StableDiffusion,
        data: &Arc<DataSet>,
        config: &DataConfig,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<LatentCache> {
        let store = match &config.cache_dir {
            None => Store::Memory(in_memory(model, data, config.workers, progress)?),
            Some(folder) => {
                let (mut disk, survey) = DiskLatents::open(folder, model, data)?;
                survey.tell_of_damage();
                eprintln!("latents: {}", survey.summary(folder));
                disk.fill(model, &survey.missing, config.workers, progress)?;
                Store::Disk(disk)
            }
        };
        Ok(LatentCache { store, scaling_factor: model.vae.config().scaling_factor })
    }

    /// Scaled latents of `examples`, drawn with `noise`; f32 on the host, `[batch, channels, height, width]`.
    ///
    /// Those on disk are read now; one that is gone or damaged by now is encoded again.
    pub fn latents(&self, model: &StableDiffusion, examples: &[ExampleId], noise: &Tensor) -> Result<Tensor> {
        let moments = examples
            .iter()
            .map(|example| match &self.store {
                Store::Memory(moments) => Ok(moments[&(example.image, example.flipped)].shallow_clone()),
                Store::Disk(disk) => disk.moments(model, example.image, example.flipped),
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
    progress: &mut dyn FnMut(usize, usize),
) -> Result<HashMap<(usize, bool), Moments>> {
    let images: Vec<usize> = (0..data.images()).collect();
    let mut all = HashMap::new();
    let mut done = 0;
    encode(model, data, &images, false, workers, &mut |encoded| {
        // In the place of an unreadable image another one is visited, which has its own turn here.
        if let Some(encoded) = encoded {
            all.insert((encoded.image, false), encoded.plain);
            all.extend(encoded.mirrored.map(|mirrored| ((encoded.image, true), mirrored)));
        }
        done += 1;
        progress(done, images.len());
        Ok(())
    })?;
    Ok(all)
}
