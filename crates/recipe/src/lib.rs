#![doc = include_str!("../README.md")]

mod adapter_kind;
mod batching;
mod blocks;
mod cache_folder;
mod check;
mod check_captions;
mod check_dreambooth;
mod check_ema;
mod check_inpainting;
mod check_lora;
mod check_name;
mod check_objective;
mod check_optimizer;
mod check_order;
mod check_parts;
mod check_precision;
mod check_samples;
mod check_text_cache;
mod check_textual_inversion;
mod checkpoint;
mod clean;
mod continuation;
mod data;
mod debug;
mod decay;
mod dreambooth;
mod ema;
mod every;
mod full;
mod fuse;
mod gradient_checkpointing;
mod held_out;
mod hub;
mod ia3;
mod image;
mod initial_adapter;
mod inpainting;
mod kohya;
mod lengths;
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
mod own_rate;
mod plan;
mod precision;
mod product;
mod ranges;
mod ranks;
mod sample_prompt;
mod samples;
mod save;
mod source;
mod stage;
mod step_name;
mod target;
mod textual_inversion;
mod timesteps;
mod train;
mod train_config;
mod trainable;
mod unet_blocks;
mod vae_objective;
mod validation;

pub use adapter_kind::{AdapterKind, AdapterNumbers};
pub use batching::Batching;
pub use blocks::{BlockWeights, BlocksConfig, BlocksMistake};
pub use cache_folder::cache_folder;
pub use checkpoint::CheckpointConfig;
pub use clean::{CleanConfig, CleanMistake, Duplicates, MissingDpi};
pub use continuation::{Change, SAVED_AS};
pub use data::{
    BucketingConfig, CaptionConfig, CaptionFile, DataConfig, Leftovers, MissingCaption, Resolution, Subset,
};
pub use debug::{DebugConfig, FaultyNumber, WeightFault};
pub use dreambooth::{ClassPrompt, DreamboothConfig, Prior};
pub use ema::{EmaConfig, EmaWarmup};
pub use every::Every;
pub use full::{FullConfig, ModelFormat};
pub use fuse::FusedAdapter;
pub use gradient_checkpointing::GradientCheckpointing;
pub use hub::{HubName, hub_cache, hub_home, local_path};
pub use ia3::Ia3Config;
pub use image::{
    AlphaConfig, CONDITIONING_IMAGE, ColorAugmentation, ColorChanges, ExtraImages, MASK_COLUMN, ResizeKernel,
    ResizeMode,
};
pub use initial_adapter::FileAdapter;
pub use inpainting::{InpaintingConfig, MaskShape, MaskSource};
pub use load::Loaded;
pub use location::{BUILTIN_MODELS, ModelLocation, published_name};
pub use log::LogConfig;
pub use lokr::{LokrConfig, LokrFactors};
pub use lora::{
    DropoutPlace, KOHYA_BLOCKS, KOHYA_BLOCKS_OF_SDXL, LoraConfig, LoraFormat, TEXT_ENCODER_TARGETS, UNET_TARGETS,
};
pub use loss::{HuberSchedule, LossConfig, LossType};
pub use lr_schedule::{
    ConstantSchedule, CosineSchedule, CosineWithRestartsSchedule, DecayType, InverseSqrtSchedule, LinearSchedule,
    LrScheduleConfig, LrScheduleSettings, PiecewiseConstantSchedule, PolynomialSchedule, RexSchedule,
    WarmupStableDecaySchedule,
};
pub use method::{Method, ObjectiveKind};
pub use model::{Family, Init, ModelConfig, PredictionType};
pub use noise::{MultiresNorm, NoiseConfig};
pub use optimizer::{
    AdafactorConfig, AdamW8bitConfig, AdamWConfig, AdamWScheduleFreeConfig, CameConfig, DAdaptAdamConfig, LionConfig,
    MuonAdjustment, MuonConfig, OptimizerConfig, OptimizerSettings, ProdigyConfig, SgdConfig,
};
pub use plan::{ParsedPlan, Plan, PlannedRun};
pub use precision::{FloatType, PrecisionConfig, Rounding, StoredType};
pub use product::RAW;
pub use ranges::Ranges;
pub use ranks::{RanksConfig, Reducer};
pub use sample_prompt::{Picture, PictureConfig, SamplePrompt};
pub use samples::{SamplerName, SamplesConfig, steps_of_strength};
pub use save::SaveConfig;
pub use source::{SOURCE_FILE_ENDINGS, SourceFormat, address_mistake, is_address, is_pattern};
pub use stage::StageConfig;
pub use step_name::{step_name, step_of_name};
pub use target::matches_pattern;
pub use textual_inversion::{CaptionTemplates, EmbeddingFormat, LearnedTokenConfig, TextualInversionConfig};
pub use timesteps::{
    BiasStrategy, BiasedTimesteps, CubicEnd, CubicTimesteps, LogitNormalTimesteps, SigmoidTimesteps,
    TimestepDistribution, TimestepsConfig, UniformTimesteps,
};
pub use train::{LearningRateScale, TrainSection};
pub use train_config::{Extends, TrainConfig};
pub use trainable::{HandedOn, Learning, TrainableFacts, TrainableKind, Words};
pub use unet_blocks::UnetBlocks;
pub use vae_objective::{VaeConfig, VaeProduct};
pub use validation::ValidationConfig;
