#![doc = include_str!("../README.md")]

mod adapter_kind;
mod batching;
mod cache_folder;
mod check;
mod check_captions;
mod check_ema;
mod check_lora;
mod check_objective;
mod check_order;
mod check_text_cache;
mod checkpoint;
mod clean;
mod data;
mod debug;
mod ema;
mod every;
mod full;
mod ia3;
mod image;
mod kohya;
mod load;
mod location;
mod log;
mod lokr;
mod lora;
mod loss;
mod lr_schedule;
mod method;
mod model;
mod noise;
mod optimizer;
mod precision;
mod samples;
mod save;
mod source;
mod target;
mod timesteps;
mod train;
mod train_config;
mod vae_objective;
mod validation;

pub use adapter_kind::AdapterKind;
pub use batching::Batching;
pub use cache_folder::cache_folder;
pub use checkpoint::CheckpointConfig;
pub use clean::{CleanConfig, CleanMistake, Duplicates, MissingDpi};
pub use data::{
    BucketingConfig, CaptionConfig, CaptionFile, DataConfig, Leftovers, MissingCaption, Resolution, Subset,
};
pub use debug::DebugConfig;
pub use ema::{EmaConfig, EmaWarmup};
pub use every::Every;
pub use full::{FullConfig, ModelFormat};
pub use ia3::Ia3Config;
pub use image::{AlphaConfig, ColorAugmentation, ColorChanges, ExtraImages, MASK_COLUMN, ResizeKernel};
pub use load::Loaded;
pub use location::{BUILTIN_MODELS, ModelLocation};
pub use log::LogConfig;
pub use lokr::{LokrConfig, LokrFactors};
pub use lora::{KOHYA_BLOCKS, LoraConfig, LoraFormat, TEXT_ENCODER_TARGETS, UNET_TARGETS};
pub use loss::{HuberSchedule, LossConfig, LossType};
pub use lr_schedule::{ConstantSchedule, CosineSchedule, LinearSchedule, LrScheduleConfig};
pub use method::{Method, ObjectiveKind, TrainableKind};
pub use model::{Family, Init, ModelConfig, PredictionType};
pub use noise::{MultiresNorm, NoiseConfig};
pub use optimizer::{AdamWConfig, OptimizerConfig};
pub use precision::{FloatType, PrecisionConfig};
pub use samples::{SamplerName, SamplesConfig};
pub use save::SaveConfig;
pub use source::{SOURCE_FILE_ENDINGS, SourceFormat, address_mistake, is_address, is_pattern};
pub use target::matches_pattern;
pub use timesteps::{
    BiasStrategy, BiasedTimesteps, CubicEnd, CubicTimesteps, LogitNormalTimesteps, SigmoidTimesteps,
    TimestepDistribution, TimestepsConfig, UniformTimesteps,
};
pub use train::TrainSection;
pub use train_config::{Extends, TrainConfig};
pub use vae_objective::VaeConfig;
pub use validation::ValidationConfig;
