//! Loss on images that are not trained on, with the same noise and timesteps every time.

use crate::error::Result;
use crate::latent_cache::LatentCache;
use crate::prompt_cache::PromptCache;
use sdtrain_data_loader::{DataSet, ExampleId};
use sdtrain_diffusion::loss::mse;
use sdtrain_diffusion::{ExampleKey, NoiseSchedule, PredictionType, noise, timesteps};
use sdtrain_model::StableDiffusion;
use sdtrain_random::Purpose;
use tch::{Kind, Tensor};

/// Seed of everything random here: the same for all runs, so that their losses can be compared.
const SEED: u64 = 0x5eed;

/// Held-out examples, encoded, with their noise and timesteps fixed.
pub struct Validation {
    batches: Vec<HeldOut>,
    bands: usize,
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
}

struct HeldOut {
    captions: Vec<String>,
    /// Band, noise and timesteps of each draw.
    draws: Vec<(usize, Tensor, Tensor)>,
    latents: Tensor,
}

impl Validation {
    /// Encodes `data` and draws `repeats` times for each of `bands` equal parts of the timesteps.
    pub fn new(
        model: &StableDiffusion,
        data: &DataSet,
        bands: usize,
        repeats: usize,
        schedule: NoiseSchedule,
        prediction_type: PredictionType,
    ) -> Result<Validation> {
        let cache = LatentCache::fill(model, data, &mut |_, _| {})?;
        let total = schedule.num_train_timesteps() as i64;
        let mut batches = Vec::new();
        for plan in data.epoch_plan(0) {
            let examples: Vec<ExampleId> = data.examples_of(&plan, 0)?;
            let captions = data.captions_of(&plan, 0)?;
            let shape = cache.shape(&examples[0]);
            let keys = |draw: usize| -> Vec<ExampleKey> {
                examples.iter().map(|e| ExampleKey { epoch: draw as u64, example: e.image as u64 }).collect()
            };
            let latents = cache.latents(&examples, &noise::gaussian(SEED, Purpose::Latent, &keys(0), &shape));
            let mut draws = Vec::new();
            for draw in 0..bands * repeats {
                let band = draw % bands;
                let range = total * band as i64 / bands as i64..total * (band as i64 + 1) / bands as i64;
                let noise = noise::gaussian(SEED, Purpose::Validation, &keys(draw), &shape);
                let timesteps = timesteps::uniform(SEED, Purpose::Timestep, &keys(draw), range);
                draws.push((band, noise.to_device(model.device), timesteps.to_device(model.device)));
            }
            batches.push(HeldOut { captions, draws, latents: latents.to_device(model.device) });
        }
        Ok(Validation { batches, bands, schedule, prediction_type })
    }

    /// Mean squared error of each band, from little noise to much, with the model as it is now.
    pub fn losses(&self, model: &StableDiffusion, clip_skip: usize) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; self.bands];
        let mut counts = vec![0usize; self.bands];
        // Text states are not kept between calls: the text encoder may be trained.
        let mut prompts = PromptCache::new(clip_skip);
        for batch in &self.batches {
            let context = prompts.encode(model, &batch.captions)?;
            for (band, noise, timesteps) in &batch.draws {
                let sum = sdtrain_torch::catch(|| {
                    tch::no_grad(|| {
                        let noisy = self.schedule.add_noise(&batch.latents, noise, timesteps).to_kind(model.compute);
                        let prediction = model.unet.forward(&noisy, timesteps, &context, false).to_kind(Kind::Float);
                        let target = self.prediction_type.target(&self.schedule, &batch.latents, noise, timesteps);
                        mse(&prediction, &target).sum(Kind::Float).double_value(&[])
                    })
                })?;
                sums[*band] += sum;
                counts[*band] += batch.captions.len();
            }
        }
        Ok(sums.iter().zip(&counts).map(|(sum, &count)| sum / count.max(1) as f64).collect())
    }
}
