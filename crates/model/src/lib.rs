#![doc = include_str!("../README.md")]

mod builder;
mod builtin;
mod conditions;
mod config_json;
mod error;
mod inpainting;
mod kinds;
pub mod layers;
mod learned_words;
mod load;
mod lpips;
mod model_configs;
mod parameters;
mod prompt;
mod read_tensor;
mod save;
mod stable_diffusion;
pub mod text_encoder;
pub mod unet;
pub mod vae;

pub use builder::{Builder, Source};
pub use builtin::{bytes as builtin_bytes, open as open_builtin};
pub use conditions::{
    AESTHETIC_SCORE, AddedConditions, Conditions, NEGATIVE_AESTHETIC_SCORE, PictureSizes, TextStates,
};
pub use config_json::PerBlock;
pub use error::{Error, Result};
pub use inpainting::{nearest_latent_mask, unet_input};
pub use kinds::{dtype_of, kind_of};
pub use learned_words::LearnedWord;
pub use load::{LoadOptions, OtherTextEncoder, load, load_edited};
pub use lpips::Lpips;
pub use model_configs::ModelConfigs;
pub use parameters::{Adaptable, LayerAdapter, Parameters, sampled};
pub use prompt::{EncoderTokens, PromptReading, PromptTokens, STATES_VERSION, TokenizedPrompts};
pub use read_tensor::{read_tensor, read_weight};
pub use save::TensorReader;
pub use sdtrain_state_dict::TextLayer;
pub use stable_diffusion::{Frozen, PromptEncoder, StableDiffusion};
