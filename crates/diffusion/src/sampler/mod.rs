//! Samplers: from noise to latents in a chosen number of steps.
//!
//! ```text
//! latents = noise · init_noise_sigma
//! for (i, t) in timesteps:
//!     prediction = unet(sampler.scale_model_input(latents, i), t)
//!     latents    = sampler.step(prediction, i, latents, noise)
//! ```
//! Latents are fp32 between steps whatever type the network works in; coefficients are fp32 as in diffusers, so that
//! the same model gives the same picture.

mod ddim;
mod ddpm;
mod dpm_solver_multistep;
mod euler;
mod euler_ancestral;
mod heun;
mod lms;
mod pndm;
mod sigmas;
mod spacing;
mod unipc;

use sdtrain_recipe::SamplerName;
use tch::{Kind, Tensor};

use crate::{Error, NoiseSchedule, PredictionType};
use crate::{SchedulerClass, SchedulerConfig, SchedulerSettings};

/// One run from noise to latents. It remembers earlier predictions where its method needs them: build a new one
/// for the next picture, and call `step` in the order of `timesteps` (from the first or, for an image to start
/// from, from a later one).
pub trait Sampler {
    /// The timestep of each call of the network; some methods call it more than once a step.
    fn timesteps(&self) -> &[f64];

    /// The noise level at each call and after the last, for methods that work with noise levels; else empty.
    fn sigmas(&self) -> &[f32] {
        &[]
    }

    /// What standard normal noise is multiplied by to start from.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// Calls of the network for one step asked for: an image to start from enters at a multiple of it.
    fn calls_per_step(&self) -> usize {
        1
    }

    /// The latents as the network wants them at that call.
    fn scale_model_input(&self, sample: &Tensor, _step_index: usize) -> Tensor {
        sample.shallow_clone()
    }

    /// Latents with as much noise as the sampler expects at that call.
    fn add_noise(&self, latents: &Tensor, noise: &Tensor, step_index: usize) -> Tensor;

    /// The latents after that call. `noise` is asked for standard normal noise of a shape, in the order in which
    /// diffusers asks its generator.
    fn step(
        &mut self,
        model_output: &Tensor,
        step_index: usize,
        sample: &Tensor,
        noise: &mut dyn FnMut(&[i64]) -> Tensor,
    ) -> Tensor;
}

/// A line of the list of samplers.
#[derive(Clone, Copy, Debug)]
pub struct SamplerEntry {
    /// What a user types.
    pub name: SamplerName,
    /// The class of diffusers that does the same.
    pub class: SchedulerClass,
    /// What it is, in a sentence.
    pub summary: &'static str,
}

const fn entry(name: SamplerName, class: SchedulerClass, summary: &'static str) -> SamplerEntry {
    SamplerEntry { name, class, summary }
}

/// Every sampler that can be asked for by name.
#[rustfmt::skip] // a table
pub const SAMPLERS: &[SamplerEntry] = &[
    entry(SamplerName::Ddim, SchedulerClass::Ddim, "DDIM without noise (Song et al. 2020, arXiv:2010.02502)"),
    entry(SamplerName::Ddpm, SchedulerClass::Ddpm, "ancestral sampling of DDPM (Ho et al. 2020, arXiv:2006.11239)"),
    entry(SamplerName::Pndm, SchedulerClass::Pndm, "pseudo linear multistep, with or without Runge-Kutta start (Liu et al. 2022, arXiv:2202.09778)"),
    entry(SamplerName::Lms, SchedulerClass::LmsDiscrete, "linear multistep of order 4 over noise levels"),
    entry(SamplerName::Euler, SchedulerClass::EulerDiscrete, "Euler's method over noise levels (Karras et al. 2022, arXiv:2206.00364)"),
    entry(SamplerName::EulerA, SchedulerClass::EulerAncestralDiscrete, "Euler's method with fresh noise at each step"),
    entry(SamplerName::Heun, SchedulerClass::HeunDiscrete, "Heun's method over noise levels: two calls of the network a step"),
    entry(SamplerName::Dpmpp2m, SchedulerClass::DpmSolverMultistep, "DPM-Solver++ multistep of order 2 (Lu et al. 2022, arXiv:2211.01095)"),
    entry(SamplerName::Dpmpp2mKarras, SchedulerClass::DpmSolverMultistep, "the same with the noise levels of Karras et al."),
    entry(SamplerName::UniPc, SchedulerClass::UniPcMultistep, "UniPC, predictor and corrector of order 2 (Zhao et al. 2023, arXiv:2302.04867)"),
];

/// The names of all samplers, for messages.
pub(crate) fn names() -> String {
    SAMPLERS.iter().map(|entry| entry.name.name()).collect::<Vec<_>>().join(", ")
}

fn class_of(name: SamplerName) -> SchedulerClass {
    SAMPLERS.iter().find(|entry| entry.name == name).expect("every name is in the list").class
}

/// The named sampler over a model's schedule: its configuration with the defaults of the sampler's class for the keys
/// that it does not have.
pub fn build(name: SamplerName, config: &SchedulerConfig, steps: usize) -> Result<Box<dyn Sampler>, Error> {
    let mut settings = config.settings(class_of(name))?;
    settings.use_karras_sigmas |= name == SamplerName::Dpmpp2mKarras;
    from_settings(settings, steps)
}

/// The sampler that the configuration itself names in `_class_name`.
pub fn from_class(config: &SchedulerConfig, steps: usize) -> Result<Box<dyn Sampler>, Error> {
    from_settings(config.settings(config.class()?)?, steps)
}

/// The sampler of settings that are already complete.
pub fn from_settings(settings: SchedulerSettings, steps: usize) -> Result<Box<dyn Sampler>, Error> {
    let refuse = |reason| {
        let (class, num_train_timesteps) = (settings.class.name(), settings.num_train_timesteps);
        Err(Error::Steps { class, steps, num_train_timesteps, reason })
    };
    if steps == 0 {
        return refuse(": there must be at least one");
    }
    if steps > settings.num_train_timesteps {
        return refuse("");
    }
    let schedule = NoiseSchedule::from_settings(&settings)?;
    let sampler: Box<dyn Sampler> = match settings.class {
        SchedulerClass::Ddim => Box::new(ddim::Ddim::new(settings, &schedule, steps)?),
        SchedulerClass::Ddpm => Box::new(ddpm::Ddpm::new(settings, &schedule, steps)?),
        SchedulerClass::Pndm => Box::new(pndm::Pndm::new(settings, &schedule, steps)?),
        SchedulerClass::LmsDiscrete => Box::new(lms::Lms::new(settings, &schedule, steps)),
        SchedulerClass::EulerDiscrete => Box::new(euler::Euler::new(settings, &schedule, steps)),
        SchedulerClass::EulerAncestralDiscrete => {
            Box::new(euler_ancestral::EulerAncestral::new(settings, &schedule, steps))
        }
        SchedulerClass::HeunDiscrete => Box::new(heun::Heun::new(settings, &schedule, steps)),
        SchedulerClass::DpmSolverMultistep => {
            Box::new(dpm_solver_multistep::DpmSolverMultistep::new(settings, &schedule, steps)?)
        }
        SchedulerClass::UniPcMultistep => Box::new(unipc::UniPc::new(settings, &schedule, steps)?),
    };
    Ok(sampler)
}

/// Latents and predictions are stepped in fp32, whatever the network computes in.
fn fp32(tensor: &Tensor) -> Tensor {
    tensor.to_kind(Kind::Float)
}

/// A coefficient for tensor arithmetic: exact, since fp32 fits in fp64 and libtorch rounds it back.
fn c(coefficient: f32) -> f64 {
    f64::from(coefficient)
}

/// The latents without noise that a prediction amounts to at √ᾱ and √(1−ᾱ).
fn predicted_latents(
    prediction_type: PredictionType,
    model_output: &Tensor,
    sample: &Tensor,
    signal_rate: f32,
    noise_rate: f32,
) -> Tensor {
    let (signal_rate, noise_rate) = (c(signal_rate), c(noise_rate));
    match prediction_type {
        PredictionType::Epsilon => (sample - model_output * noise_rate) / signal_rate,
        PredictionType::VPrediction => sample * signal_rate - model_output * noise_rate,
        PredictionType::Sample => model_output.shallow_clone(),
    }
}

/// The noise that a prediction amounts to at √ᾱ and √(1−ᾱ).
fn predicted_noise(
    prediction_type: PredictionType,
    model_output: &Tensor,
    sample: &Tensor,
    signal_rate: f32,
    noise_rate: f32,
) -> Tensor {
    let (signal_rate, noise_rate) = (c(signal_rate), c(noise_rate));
    match prediction_type {
        PredictionType::Epsilon => model_output.shallow_clone(),
        PredictionType::VPrediction => model_output * signal_rate + sample * noise_rate,
        PredictionType::Sample => (sample - model_output * signal_rate) / noise_rate,
    }
}

/// The latents limited to what the configuration allows, for the few models that ask for it.
fn clipped(latents: Tensor, range: Option<f64>) -> Tensor {
    match range {
        Some(range) => latents.clamp(-range, range),
        None => latents,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_the_list_once() {
        let listed: Vec<SamplerName> = SAMPLERS.iter().map(|entry| entry.name).collect();
        assert_eq!(listed, SamplerName::ALL);
        assert!(SAMPLERS.iter().all(|entry| !entry.summary.is_empty()));
    }

    #[test]
    fn every_sampler_takes_any_number_of_steps_and_starts_anywhere() {
        let config = SchedulerConfig::stable_diffusion();
        let latents = Tensor::ones([1, 4, 2, 2], (Kind::Float, tch::Device::Cpu));
        for entry in SAMPLERS {
            for steps in [1, 2, 3, 14, 15, 61] {
                for enter_at in [0, steps / 2] {
                    let mut sampler = build(entry.name, &config, steps).unwrap();
                    let first = enter_at * sampler.calls_per_step();
                    let mut sample = sampler.add_noise(&latents, &latents, first);
                    for step_index in first..sampler.timesteps().len() {
                        let input = sampler.scale_model_input(&sample, step_index);
                        let mut noise = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, tch::Device::Cpu));
                        sample = sampler.step(&(input * 0.5), step_index, &sample, &mut noise);
                    }
                    let finite = sample.isfinite().all().int64_value(&[]) == 1;
                    assert!(finite, "{} with {steps} steps from {enter_at}", entry.name);
                }
            }
        }
    }

    #[test]
    fn refuses_a_number_of_steps_that_does_not_fit() {
        let config = SchedulerConfig::stable_diffusion();
        for steps in [0, 1000, 1001] {
            // 1000 steps of stride 1 with an offset of 1 would start at timestep 1000, which is outside.
            let error = build(SamplerName::Ddim, &config, steps).err().expect("refused");
            assert!(error.to_string().contains(&format!("{steps} steps")), "{error}");
        }
        assert!(build(SamplerName::Ddim, &config, 999).is_ok());
    }

    #[test]
    fn predictions_in_half_precision_are_stepped_in_full_precision() {
        let mut sampler = build(SamplerName::Euler, &SchedulerConfig::stable_diffusion(), 4).unwrap();
        let sample = Tensor::ones([1, 4, 2, 2], (Kind::BFloat16, tch::Device::Cpu));
        let mut noise = |_: &[i64]| unreachable!("Euler's method draws no noise");
        assert_eq!(sampler.step(&sample, 0, &sample, &mut noise).kind(), Kind::Float);
    }
}
