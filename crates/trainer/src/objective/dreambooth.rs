//! One subject and its class (Ruiz et al. 2022, arXiv:2208.12242): denoising of the subject's images, and keeping to the class.
//! Class images are examples like others, weighted by `loss.prior_loss_weight`. Without them the base's prediction is the target:
//!
//! ```text
//! Lᵢ = wᵢ · ( ‖ f_θ(zᵢ, tᵢ, captionᵢ) − yᵢ ‖² + λ · ‖ f_θ(zᵢ, tᵢ, class) − f_base(zᵢ, tᵢ, class) ‖² )
//! ```
//!
//! with the mean square as ‖·‖², the weight wᵢ of the example's timestep on both terms, and λ = `loss.prior_loss_weight`. The
//! second term is the "prior preservation" of the paper (its equation 2) with the noise of a class image replaced by what the
//! frozen base predicts, as learning without forgetting does it (Li and Hoiem 2016, arXiv:1606.09282).

use super::Objective;
use super::text_to_image::TextToImage;
use crate::batches::Batch;
use crate::error::Result;
use crate::inputs::{PriorInputs, Prompts, StepInputs};
use sdtrain_data_loader::{DataSet, ExampleId};
use sdtrain_diffusion::NoiseSchedule;
use sdtrain_diffusion::loss::mse;
use sdtrain_evaluate::prompt_reading;
use sdtrain_model::unet::UNet2DConditionModel;
use sdtrain_model::{Frozen, PromptReading, StableDiffusion, TextStates};
use sdtrain_recipe::{ClassPrompt, GradientCheckpointing, Learning, Prior, TrainConfig};
use std::sync::Arc;
use std::time::Duration;
use tch::{Kind, Tensor};

/// Learn the subject, keep its class.
pub struct DreamBooth {
    subject: TextToImage,
    base: Option<BasePrediction>,
}

/// What the base answers to the class prompt is to stay.
struct BasePrediction {
    /// The base's UNet, where the trained one is not the base with something switched off.
    unet: Option<UNet2DConditionModel>,
    class_prompt: ClassPrompt,
    /// The base's states of the class prompts, in the compute dtype.
    states: TextStates,
    weight: f64,
    schedule: NoiseSchedule,
    reading: PromptReading,
    trains_text_encoder: bool,
}

impl DreamBooth {
    /// For a run of `config` on `data`, among which the class images are by now. `model` must still be the base, but for adapters.
    pub fn new(config: &TrainConfig, model: &StableDiffusion, data: &Arc<DataSet>) -> Result<DreamBooth> {
        let subject = TextToImage::new(config, model, data)?;
        let base = match config.dreambooth.prior {
            Prior::BasePrediction => Some(BasePrediction::new(config, model)?),
            Prior::ClassImages | Prior::None => None,
        };
        Ok(DreamBooth { subject, base })
    }
}

impl BasePrediction {
    fn new(config: &TrainConfig, model: &StableDiffusion) -> Result<BasePrediction> {
        let reading = prompt_reading(&config.model);
        let class_prompt = config.dreambooth.class_prompt.clone();
        let states = model.without_adapters(|| model.encode_prompts(class_prompt.all(), &reading))?;
        let unet = match config.trainable_facts().unet {
            Learning::Weights => Some(model.frozen_unet()?),
            Learning::Adapters | Learning::Nothing => None,
        };
        Ok(BasePrediction {
            unet,
            class_prompt,
            states,
            weight: config.loss.prior_loss_weight,
            schedule: NoiseSchedule::new(&model.scheduler)?.to_device(model.device),
            reading,
            trains_text_encoder: config.trains_text_encoder(),
        })
    }

    /// `loss_weights` are those of the examples, f32 `[batch]`.
    fn prepare(&self, model: &StableDiffusion, batch: &Batch, loss_weights: &Tensor) -> Result<PriorInputs> {
        let count = self.class_prompt.all().len().max(1) as u64;
        let places: Vec<i64> = batch.examples.iter().map(|example| (example.index % count) as i64).collect();
        let places = Tensor::f_from_slice(&places)?.f_to_device(model.device)?;
        let base_states = self.states.map(|states| states.f_index_select(0, &places))?;
        let class_prompt = |example: &ExampleId| self.class_prompt.of(example.index).to_owned();
        let prompts = match self.trains_text_encoder {
            true => {
                let class_prompts: Vec<String> = batch.examples.iter().map(class_prompt).collect();
                Prompts::Tokenized(model.tokenize(&class_prompts, &self.reading)?)
            }
            false => Prompts::Encoded(base_states.shallow_clone()),
        };
        Ok(PriorInputs { prompts, base_states, loss_weights: loss_weights * self.weight })
    }

    /// The loss of each example, f32 `[batch]`.
    fn losses(
        &self,
        model: &StableDiffusion,
        inputs: &StepInputs,
        gradient_checkpointing: GradientCheckpointing,
    ) -> Tensor {
        let StepInputs::Denoising(inputs) = inputs else { unreachable!("this objective prepares denoising inputs") };
        let prior = inputs.prior.as_ref().expect("`prepare` gives it to every batch");
        let noise = inputs.input_noise.as_ref().unwrap_or(&inputs.noise);
        let noisy_latents = self.schedule.add_noise(&inputs.latents, noise, &inputs.timesteps).to_kind(model.compute);
        let (timesteps, time_ids) = (&inputs.timesteps, inputs.time_ids.as_ref());
        let of_base = model.conditions(&prior.base_states, time_ids);
        let target = tch::no_grad(|| match &self.unet {
            Some(unet) => unet.forward(&noisy_latents, timesteps, &of_base, false),
            None => model.without_adapters(|| model.unet.forward(&noisy_latents, timesteps, &of_base, false)),
        });
        let text = prior.prompts.states(model, &self.reading, gradient_checkpointing.is_everywhere());
        let conditions = model.conditions(&text, time_ids);
        let prediction = model.unet.forward(&noisy_latents, timesteps, &conditions, gradient_checkpointing);
        mse(&prediction.to_kind(Kind::Float), &target.to_kind(Kind::Float)) * &prior.loss_weights
    }
}

impl Objective for DreamBooth {
    fn prepare(&mut self, model: &StableDiffusion, batch: &Batch, pass: u64) -> Result<StepInputs> {
        let mut inputs = self.subject.prepare(model, batch, pass)?;
        if let (Some(base), StepInputs::Denoising(inputs)) = (&self.base, &mut inputs) {
            inputs.prior = Some(base.prepare(model, batch, &inputs.loss_weights)?);
        }
        Ok(inputs)
    }

    fn losses(
        &self,
        model: &StableDiffusion,
        inputs: &StepInputs,
        gradient_checkpointing: GradientCheckpointing,
    ) -> Tensor {
        let losses = self.subject.losses(model, inputs, gradient_checkpointing);
        match &self.base {
            Some(base) => losses + base.losses(model, inputs, gradient_checkpointing),
            None => losses,
        }
    }

    fn idle(&self) -> &'static [Frozen] {
        self.subject.idle()
    }

    fn wants_pixels(&self) -> bool {
        self.subject.wants_pixels()
    }

    fn wants_masks(&self) -> bool {
        self.subject.wants_masks()
    }

    fn take_data_wait(&mut self) -> Duration {
        self.subject.take_data_wait()
    }
}
