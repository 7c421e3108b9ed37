//! The mathematics of noise: schedule, prediction type, timesteps, noise, loss and samplers.
#![doc = include_str!("../README.md")]

mod error;
mod example_key;
mod inpainting_mask;
pub mod loss;
pub mod noise;
mod noise_schedule;
mod prediction_type;
pub mod sampler;
mod scheduler_choices;
mod scheduler_config;
pub mod timesteps;

pub use error::Error;
pub use example_key::ExampleKey;
pub use inpainting_mask::random_mask;
pub use noise_schedule::NoiseSchedule;
pub use prediction_type::PredictionType;
pub use sampler::{SAMPLERS, Sampler};
pub use scheduler_choices::{
    AlgorithmType, BetaSchedule, FinalSigmasType, SchedulerClass, SolverType, TimestepSpacing, VarianceType,
};
pub use scheduler_config::{SchedulerConfig, SchedulerSettings};
pub use sdtrain_recipe::SamplerName;
