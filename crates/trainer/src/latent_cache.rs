//! Moments of every image's latents, encoded once before the first step.

use crate::error::Result;
use sdtrain_data_loader::{DataSet, ExampleId};
use sdtrain_model::StableDiffusion;
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// How many images are encoded at once.
pub(crate) const BATCH: usize = 16;

/// Mean and standard deviation of each image's latents, unscaled, on the host. Keeping both, not a draw, makes cached
/// training equal to uncached training: the draw is made anew at every visit.
pub struct LatentCache {
    moments: HashMap<(usize, bool), (Tensor, Tensor)>,
    scaling_factor: f64,
}

impl LatentCache {
    /// Encodes every image of `data`, mirrored ones too where visits are mirrored. `progress(done, total)`.
    pub fn fill(
        model: &StableDiffusion,
        data: &DataSet,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<LatentCache> {
        let mut wanted: Vec<(usize, bool)> = (0..data.images()).map(|image| (image, false)).collect();
        wanted.extend((0..data.images()).filter(|&image| data.may_be_mirrored(image)).map(|image| (image, true)));
        // Images of one size are neighbours, so that batches are full.
        wanted.sort_by_key(|&(image, flipped)| (data.placement(image).bucket, image, flipped));
        let total = wanted.len();
        let mut moments = HashMap::with_capacity(total);
        for group in wanted.chunk_by(|a, b| data.placement(a.0).bucket == data.placement(b.0).bucket) {
            for chunk in group.chunks(BATCH) {
                let images = chunk
                    .iter()
                    .map(|&(image, flipped)| data.load_image(image, flipped))
                    .collect::<std::result::Result<Vec<_>, _>>()?;
                let (width, height) = images[0].size;
                let pixels: Vec<f32> = images.iter().flat_map(|image| image.pixels.iter().copied()).collect();
                let shape = [chunk.len() as i64, 3, height as i64, width as i64];
                let pixels = Tensor::f_from_slice(&pixels)?.f_reshape(shape)?;
                let (mean, deviation) = model.latent_moments(&pixels)?;
                for (index, &key) in chunk.iter().enumerate() {
                    let of_image = |t: &Tensor| t.get(index as i64).to_kind(Kind::Float).contiguous();
                    moments.insert(key, (of_image(&mean), of_image(&deviation)));
                }
                progress(moments.len(), total);
            }
        }
        Ok(LatentCache { moments, scaling_factor: model.vae.config().scaling_factor })
    }

    /// Scaled latents of `examples`, drawn with `noise`; f32 on the host, `[batch, channels, height, width]`.
    pub fn latents(&self, examples: &[ExampleId], noise: &Tensor) -> Tensor {
        let of = |pick: fn(&(Tensor, Tensor)) -> &Tensor| {
            let tensors: Vec<&Tensor> = examples.iter().map(|e| pick(&self.moments[&(e.image, e.flipped)])).collect();
            Tensor::stack(&tensors, 0)
        };
        (of(|m| &m.0) + of(|m| &m.1) * noise) * self.scaling_factor
    }
}
