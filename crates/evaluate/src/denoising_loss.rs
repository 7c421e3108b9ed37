//! Loss on images that were not trained on, in equal parts of the timesteps, with the same noise and timesteps every time.

use crate::error::Result;
use crate::metric::{Column, Form, Metric, MetricEntry};
use sdtrain_data_loader::DataSet;
use sdtrain_diffusion::loss::mse;
use sdtrain_diffusion::{ExampleKey, NoiseSchedule, PredictionType, noise, random_mask, timesteps};
use sdtrain_features::LatentCache;
use sdtrain_model::{PictureSizes, PromptReading, StableDiffusion, unet_input};
use sdtrain_pipeline::pictures_at_once;
use sdtrain_random::Purpose;
use sdtrain_recipe::{DataConfig, InpaintingConfig};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use tch::{Kind, Tensor};

/// The list's line.
pub const ENTRY: MetricEntry = MetricEntry {
    name: "denoising_loss",
    summary: "mean squared error of the denoiser on the held-out images, for each band of timesteps",
    prepare: |setting| {
        // Another autoencoder makes other latents: losses on them could not be compared.
        if !setting.config.objective_kind().denoises() {
            return Ok(None);
        }
        let (bands, repeats) = (setting.config.validation.timestep_bands, setting.config.validation.repeats);
        let loss = DenoisingLoss::new(
            setting.model,
            setting.held_out,
            &setting.config.data,
            bands as usize,
            repeats as usize,
        )?;
        Ok(Some(Box::new(Measured { loss, prompt_reading: setting.prompt_reading() })))
    },
};

/// Seed of everything random here: the same for all runs, so that their losses can be compared.
const SEED: u64 = 0x5eed;

/// Held-out images, encoded, with their noise and timesteps fixed.
pub struct DenoisingLoss {
    batches: Vec<HeldOut>,
    bands: usize,
    repeats: usize,
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
}

struct HeldOut {
    captions: Vec<String>,
    latents: Tensor,
    /// Where the images come from, for a UNet that is told.
    time_ids: Option<Tensor>,
    /// What a UNet for inpainting is shown behind the noisy latents, `[batch, 5, height, width]`.
    mask_channels: Option<Tensor>,
    draws: Vec<Draw>,
}

/// One draw for every image of a batch.
struct Draw {
    band: usize,
    noise: Tensor,
    timesteps: Tensor,
}

impl DenoisingLoss {
    /// Encodes every readable image of `data`, or takes its latents from `data.cache_dir`, and draws `repeats` times for each of
    /// `bands` equal parts of the timesteps.
    ///
    /// An image's latents, noise and timesteps depend on its place in `data` alone: not on a run's seed or batch size.
    pub fn new(
        model: &StableDiffusion,
        data: &DataSet,
        config: &DataConfig,
        bands: usize,
        repeats: usize,
    ) -> Result<DenoisingLoss> {
        let (bands, repeats) = (bands.max(1), repeats.max(1));
        let schedule = NoiseSchedule::new(&model.scheduler)?.to_device(model.device);
        let prediction_type = schedule.prediction_type();
        let total = schedule.num_train_timesteps();
        let mut of_size: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for image in 0..data.images() {
            of_size.entry(data.placement(image).bucket).or_default().push(image);
        }
        let latents = LatentCache::fill(model, data, config, "held-out images", &mut |_, _| {})?;
        let mut batches = Vec::new();
        for (&size, images) in &of_size {
            // Another image would stand in for one that cannot be read; here it would only be counted twice.
            let readable: Vec<usize> = images.iter().copied().filter(|&image| latents.has(image)).collect();
            for chunk in readable.chunks(pictures_at_once(size.0 as u32, size.1 as u32)) {
                batches.push(HeldOut::of(model, data, &latents, size, chunk, bands, repeats, total)?);
            }
        }
        Ok(DenoisingLoss { batches, bands, repeats, schedule, prediction_type })
    }

    /// Mean squared error of each band, from little noise to much, with the model as it is now.
    pub fn losses(&self, model: &StableDiffusion, reading: &PromptReading) -> Result<Vec<f64>> {
        Ok(self.losses_while(model, reading, &|| true)?.unwrap_or_default())
    }

    /// The same while `goes_on`, which is asked before each batch; nothing where it does not go on any more.
    pub fn losses_while(
        &self,
        model: &StableDiffusion,
        reading: &PromptReading,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f64>>> {
        let mut sums = vec![0.0; self.bands];
        for batch in &self.batches {
            if !goes_on() {
                return Ok(None);
            }
            // Encoded anew every time: the text encoder may be trained.
            let text = model.encode_prompts(&batch.captions, reading)?;
            let conditions = model.conditions(&text, batch.time_ids.as_ref());
            for Draw { band, noise, timesteps } in &batch.draws {
                sums[*band] += sdtrain_torch::catch(|| {
                    tch::no_grad(|| {
                        let noisy_latents = self.schedule.add_noise(&batch.latents, noise, timesteps);
                        let input = unet_input(noisy_latents, batch.mask_channels.as_ref(), model.compute);
                        let prediction = model.unet.forward(&input, timesteps, &conditions, false);
                        let target = self.prediction_type.target(&self.schedule, &batch.latents, noise, timesteps);
                        mse(&prediction, &target).sum(Kind::Float).double_value(&[])
                    })
                })?;
            }
        }
        let draws_of_band = self.images() * self.repeats;
        Ok(Some(sums.into_iter().map(|sum| sum / draws_of_band.max(1) as f64).collect()))
    }

    /// How many images it looks at.
    pub fn images(&self) -> usize {
        self.batches.iter().map(|batch| batch.captions.len()).sum()
    }

    /// The timesteps of each band.
    pub fn bands(&self) -> Vec<Range<usize>> {
        (0..self.bands).map(|band| timesteps_of(band, self.bands, self.schedule.num_train_timesteps())).collect()
    }
}

impl HeldOut {
    /// One batch of `images` of one size, `(width, height)` in pixels.
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own, and there is one caller")]
    fn of(
        model: &StableDiffusion,
        data: &DataSet,
        latents: &LatentCache<&DataSet>,
        size: (usize, usize),
        images: &[usize],
        bands: usize,
        repeats: usize,
        total: usize,
    ) -> Result<HeldOut> {
        let factor = model.downscale_factor();
        let shape = [model.vae.config().latent_channels, (size.1 / factor) as i64, (size.0 / factor) as i64];
        let keys = |draw: usize| -> Vec<ExampleKey> {
            images.iter().map(|&image| ExampleKey { epoch: draw as u64, example: image as u64 }).collect()
        };
        let noise = noise::gaussian(SEED, Purpose::Latent, &keys(0), &shape);
        let as_they_are: Vec<(usize, bool)> = images.iter().map(|&image| (image, false)).collect();
        let latents = latents.latents(model, &as_they_are, &noise)?.f_to_device(model.device)?;
        let draws = (0..bands * repeats).map(|draw| {
            let band = draw % bands;
            let range = timesteps_of(band, bands, total);
            let range = range.start as i64..range.end as i64;
            let noise = noise::gaussian(SEED, Purpose::Validation, &keys(draw), &shape);
            let timesteps = timesteps::uniform(SEED, Purpose::Timestep, &keys(draw), range);
            Draw { band, noise: noise.to_device(model.device), timesteps: timesteps.to_device(model.device) }
        });
        let captions = images.iter().map(|&image| data.caption(image)).collect();
        let sizes: Vec<PictureSizes> = images
            .iter()
            .map(|&image| {
                let view = data.still_view(image);
                let crop_offset = view.crop_offset(false);
                PictureSizes { original: view.original_size, crop_offset, target: view.bucket }
            })
            .collect();
        let mask_channels = match model.takes_mask() {
            true => Some(mask_channels(model, data, size, images, &keys(0), &shape)?),
            false => None,
        };
        Ok(HeldOut { captions, latents, time_ids: model.time_ids(&sizes)?, mask_channels, draws: draws.collect() })
    }
}

/// What a UNet for inpainting is shown of `images`: each with a mask that stays the same, drawn as training draws them by default.
fn mask_channels(
    model: &StableDiffusion,
    data: &DataSet,
    size: (usize, usize),
    images: &[usize],
    keys: &[ExampleKey],
    shape: &[i64],
) -> Result<Tensor> {
    let (width, height) = (size.0 as i64, size.1 as i64);
    let config = InpaintingConfig::default();
    let mut parts = Vec::with_capacity(images.len());
    for (&image, &key) in images.iter().zip(keys) {
        let pixels = Tensor::f_from_slice(&data.load_image(image, false)?.pixels)?.f_reshape([1, 3, height, width])?;
        let mask = Tensor::f_from_slice(&random_mask(&config, SEED, key, size))?.f_reshape([1, 1, height, width])?;
        let noise = noise::gaussian(SEED, Purpose::MaskedLatent, &[key], shape);
        parts.push(model.mask_channels(&pixels, &mask, &noise)?);
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}

/// The timesteps of one of `bands` parts of `total`, as equal as whole numbers allow.
fn timesteps_of(band: usize, bands: usize, total: usize) -> Range<usize> {
    total * band / bands..total * (band + 1) / bands
}

/// The loss as figures: the mean, then each band.
struct Measured {
    loss: DenoisingLoss,
    prompt_reading: PromptReading,
}

impl Metric for Measured {
    fn columns(&self) -> Vec<Column> {
        let column = |key: String, title: String| Column {
            key,
            group: "loss on held-out images, by timestep".to_string(),
            title,
            form: Form::Loss,
        };
        let bands = self.loss.bands().into_iter().enumerate();
        std::iter::once(column("loss".into(), "mean".into()))
            .chain(
                bands.map(|(band, t)| column(format!("loss_band_{band}"), format!("{}–{}", t.start, t.end.max(1) - 1))),
            )
            .collect()
    }

    fn measure(&mut self, model: &StableDiffusion) -> Result<Vec<f64>> {
        let losses = self.loss.losses(model, &self.prompt_reading)?;
        let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        Ok(std::iter::once(mean).chain(losses).collect())
    }

    fn settings(&self) -> Map<String, Value> {
        let settings = [
            ("held_out_images", json!(self.loss.images())),
            ("timestep_bands", json!(self.loss.bands)),
            ("repeats", json!(self.loss.repeats)),
        ];
        settings.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_all_timesteps_without_gap_or_overlap() {
        for (bands, total) in [(1, 1000), (4, 1000), (7, 1000), (10, 13)] {
            let ranges: Vec<Range<usize>> = (0..bands).map(|band| timesteps_of(band, bands, total)).collect();
            assert_eq!((ranges[0].start, ranges[bands - 1].end), (0, total));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
            let lengths = || ranges.iter().map(ExactSizeIterator::len);
            assert!(lengths().max() <= lengths().min().map(|shortest| shortest + 1), "{ranges:?}");
        }
    }
}
